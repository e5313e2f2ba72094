"""Damages files at random, as `fuzz_readers` wants them: blindly, in their integers, tokens, members or attributes."""

import io
import random
import re
import struct
import zipfile

TOKENS = ["", "0", "-1", "1.5", "1e400", "nan", "inf", "9" * 5000, "9" * 25, "\0", '"', "'", ",", ";", "\n", "é",
          "\ufeff", "\ud7ff", "NA", "None", "null", "true", "[]", "{}", "[" * 3000, "{" * 3000, "../x", "=1+1", "�",
          "1_0", "٣", "2024-01-01", "\r", "<a>", "&lt;", "]]>", "%s", "{x}", "\\", "\\u0000"]  # fmt: skip
INTEGERS = [0, 1, 2, 3, 7, 8, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to five faults, most of them where the format lets a reader get far."""
    for way, applies in ((_in_zip, data[:2] == b"PK"), (_in_hdf5, data[:8] == b"\x89HDF\r\n\x1a\n")):
        if applies and rng.random() < 0.6:
            try:
                return way(data, rng)
            except Exception:  # what is left of it cannot be opened
                break
    for _ in range(min(5, 1 + int(rng.expovariate(1)))):
        data = rng.choice(_ways_for(data))(data, rng)
    return data


def _ways_for(data: bytes) -> list:
    blind = [_flip_bits, _set_bytes, _cut, _delete, _repeat, _move, _set_integer, _set_integer]
    return [*blind, *[_swap_tokens] * 2 * len(blind)] if _is_text(data) else blind


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data[:64] and bool(data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 256, len(data))))


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set_bytes(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return (
        data[:start]
        + bytes([rng.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) * (stop - start)
        + data[stop:]
    )


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[stop:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, stop = _span(data, rng)
    return data[:start] + data[start:stop] * rng.choice((2, 2, 3, 50)) + data[stop:]


def _move(data: bytes, rng: random.Random) -> bytes:
    """Overwrites a part with another part of the file."""
    start, stop = _span(data, rng)
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[start:stop] + data[place + stop - start :]


def _set_integer(data: bytes, rng: random.Random) -> bytes:
    """Overwrites an integer, more often near the beginning, by one of interest or by itself and a little."""
    kind = rng.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(kind)
    if len(data) < size:
        return data
    place = rng.randrange(min(len(data) - size + 1, rng.choice((64, 512, len(data)))))
    (old,) = struct.unpack_from(kind, data, place)
    new = rng.choice((*INTEGERS, -1, old + 1, old - 1, old * 2, old // 2, len(data), len(data) - 1)) % 256**size
    return data[:place] + struct.pack(kind, new) + data[place + size :]


def _swap_tokens(data: bytes, rng: random.Random) -> bytes:
    """Replaces a word, number or sign of a text by another, of the file or of interest."""
    tokens = re.findall(r"[\w.+-]+|\s+|[^\w\s]", data.decode("utf-8", errors="surrogateescape"))
    if not tokens:
        return rng.choice(TOKENS).encode()
    place = rng.randrange(len(tokens))
    new = rng.choice((rng.choice(TOKENS), rng.choice(tokens), "", str(rng.choice(INTEGERS)), tokens[place] * 2))
    tokens[place] = new if rng.random() < 0.8 else tokens[place] + new
    return "".join(tokens).encode("utf-8", errors="surrogateescape")


def _in_zip(data: bytes, rng: random.Random) -> bytes:
    """A whole zip file, one member of which is damaged, missing or called otherwise."""
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members, comment = {name: old.read(name) for name in old.namelist()}, old.comment
    name = rng.choice(list(members))
    content = members.pop(name)
    fate = rng.random()
    if fate < 0.85:
        members[name] = mutate(content, rng)
    elif fate < 0.95:
        members[rng.choice((name + "x", "../" + name, name.upper(), "a/" + name))] = content
    box = io.BytesIO()
    with zipfile.ZipFile(box, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as new:
        new.comment = mutate(comment, rng) if comment and rng.random() < 0.3 else comment
        for member, values in members.items():
            new.writestr(member, values)
    return box.getvalue()


def _in_hdf5(data: bytes, rng: random.Random) -> bytes:
    """A whole HDF5 file, an attribute or an array of which is another, missing, or a link."""
    import h5py
    import numpy as np

    box = io.BytesIO(data)
    with h5py.File(box, "r+") as file:
        groups, arrays = [file], []
        file.visititems(lambda _, item: (groups if isinstance(item, h5py.Group) else arrays).append(item))
        attributes = [(item, key) for item in [*groups, *arrays] for key in item.attrs]
        if attributes and rng.random() < 0.6:
            item, key = rng.choice(attributes)
            value = item.attrs[key]
            if isinstance(value, str | bytes):
                text = value.encode() if isinstance(value, str) else value
                for _ in range(rng.choice((1, 1, 2, 4))):
                    text = _swap_tokens(text, rng)
                new = rng.choice((text, text.decode("utf-8", "replace").replace("\0", ""), np.float32(1.5), [1, 2]))
            else:
                values = list(np.atleast_1d(value))
                new = rng.choice(
                    (values[::-1], values[1:], values * 2, values[:1] * len(values), "x", 3, np.array([b"\xff"]))
                )
            del item.attrs[key]
            if rng.random() < 0.9:
                item.attrs[key] = new
        elif arrays:
            array = rng.choice(arrays)
            name, values, parent = array.name, array[()], array.parent
            del file[name]
            new = rng.choice(
                ("flat", "short", "type", "text", "group", "link", "soft", "gone", "scalar", "zip", "empty")
            )
            if new == "group":
                file.create_group(name)
            elif new == "link":
                file[name] = h5py.ExternalLink("other.h5", "/x")
            elif new == "soft":
                file[name] = h5py.SoftLink(rng.choice(("/", parent.name, "/no")))
            elif new == "zip":
                shape = tuple(rng.choice((n, 2**20)) for n in values.shape)
                file.create_dataset(name, shape, values.dtype, chunks=True, compression="gzip")
            elif new == "empty":
                file[name] = h5py.Empty("f4")
            elif new != "gone":
                file[name] = {
                    "flat": values.ravel(), "short": values[..., :-1] if values.ndim else values,
                    "type": values.astype(rng.choice(("f8", "f2", "i4", "u1", "c8", "?"))),
                    "text": np.bytes_(b"abc"), "scalar": np.float32(1),
                }[new]  # fmt: skip
    return box.getvalue()
