"use strict";
// The crops behind a cell of the grid: shown when it is pressed; arrow keys go from cell to cell.
const grid = document.querySelector("table.grid");
if (grid) {
  const crops = JSON.parse(document.getElementById("crops").textContent);
  const title = document.getElementById("behind-title");
  const list = document.getElementById("behind-crops");
  const cells = [...grid.querySelectorAll("button")];
  const place = (cell) => [Number(cell.dataset.row), Number(cell.dataset.column)];

  const show = (cell) => {
    cells.forEach((other) => other.setAttribute("aria-pressed", String(other === cell)));
    const shown = cell.dataset.crops ? cell.dataset.crops.split(" ").map((k) => crops[Number(k)]) : [];
    const count = Number(cell.dataset.count);
    title.textContent = cell.getAttribute("aria-label") + (shown.length < count ? `; ${shown.length} shown` : "");
    list.replaceChildren(...shown.map((crop) => {
      const item = document.createElement("li");
      const picture = document.createElement("img");
      picture.src = crop.src;
      picture.alt = "";
      item.append(picture, crop.words);
      return item;
    }));
  };

  const go = (from, down, right) => {
    const [row, column] = place(from);
    const ahead = cells.filter((cell) => {
      const [r, c] = place(cell);
      return right ? r === row && (c - column) * right > 0 : (r - row) * down > 0;
    });
    const far = (cell) => {
      const [r, c] = place(cell);
      return right ? Math.abs(c - column) : Math.abs(r - row) * 1000 + Math.abs(c - column);
    };
    ahead.sort((a, b) => far(a) - far(b));
    if (ahead.length) {
      from.tabIndex = -1;
      ahead[0].tabIndex = 0;
      ahead[0].focus();
    }
  };

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("button");
    if (cell) show(cell);
  });
  grid.addEventListener("keydown", (event) => {
    if (steps[event.key] && event.target.matches("button")) {
      event.preventDefault();
      go(event.target, ...steps[event.key]);
    }
  });
}
