"""Request parts on their way to the wire."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from blocks_network import RequestPart, SendMessageRequestPart, file_part, text_part
from blocks_network.consumer.parts import one_request, parts_to_wire

LIMIT = 16_384


class Uploads:
    """Notes what was to be uploaded."""

    def __init__(self) -> None:
        self.taken: list[tuple[Any, str, str, str]] = []

    def __call__(self, content: Any, *, part_id: str, file_name: str, mime_type: str, on_progress: Any = None) -> None:
        self.taken.append((content, part_id, file_name, mime_type))


def wire(*parts: Any) -> list[Any]:
    uploads = Uploads()
    result = parts_to_wire(list(parts), uploads)
    assert not uploads.taken
    return result


def test_a_text_travels_as_text_even_an_empty_one() -> None:
    assert wire(text_part("hi"), text_part("", part_id="note")) == [
        {"partId": "text", "text": "hi", "contentType": "text/plain"},
        {"partId": "note", "text": "", "contentType": "text/plain"},
    ]


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_file_up_to_the_limit_travels_inside_the_message(size: int) -> None:
    data = bytes(size)
    (part,) = wire(file_part(data, part_id="scan", file_name="s.bin"))
    assert part["artifactRef"] == {
        "kind": "inline",
        "mimeType": "application/octet-stream",
        "size": size,
        "data": base64.b64encode(data).decode(),
        "fileName": "s.bin",
    }


def test_a_larger_file_is_uploaded_and_its_part_keeps_what_it_is() -> None:
    uploads = Uploads()
    data = bytes(LIMIT + 1)
    (part,) = parts_to_wire([file_part(data, part_id="scan", content_type="image/png")], uploads)
    assert part == {"partId": "scan", "contentType": "image/png"}
    assert uploads.taken == [(data, "scan", "file", "image/png")]


def test_a_large_file_on_disk_is_not_read_to_be_sent(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(LIMIT + 1))
    uploads = Uploads()
    parts_to_wire([file_part(path)], uploads)
    assert uploads.taken == [(path, "file", "big.bin", "application/octet-stream")]


def test_a_file_that_is_not_there_is_said_where_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_part(tmp_path / "none")


@pytest.mark.parametrize("content", [b"ab", bytearray(b"ab"), memoryview(b"ab")])
def test_a_dict_part_is_mapped_and_its_file_taken(content: Any) -> None:
    (part,) = wire({"part_id": "x", "text": "ignored", "file": content, "file_name": "n.txt", "mine": 1})
    assert part["partId"] == "x"
    assert part["mine"] == 1
    assert base64.b64decode(part["artifactRef"]["data"]) == b"ab"
    assert not {"text", "file", "file_name", "part_id"} & set(part)


def test_a_text_and_a_file_in_one_part_means_the_file() -> None:
    (part,) = wire(SendMessageRequestPart(part_id="x", text="t", file=b"f"))
    assert "text" not in part
    assert part["artifactRef"]["fileName"] == "attachment"


@pytest.mark.parametrize("part", [SendMessageRequestPart(file=b"f"), {"file": b"f"}, {"partId": "", "file": b"f"}])
def test_a_file_without_a_part_id_is_a_value_error(part: Any) -> None:
    with pytest.raises(ValueError, match="part id"):
        wire(part)


def test_a_file_that_is_neither_bytes_nor_a_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'x'"):
        wire({"partId": "x", "file": 7})


def test_what_is_no_part_of_ours_goes_through() -> None:
    assert wire("plain", RequestPart(part_id="p", text="t", extra={"k": 1})) == [
        "plain",
        {"partId": "p", "text": "t", "k": 1},
    ]


def test_a_request_may_be_a_text_a_part_or_a_list() -> None:
    assert parts_to_wire(one_request("hi"), Uploads()) == [{"text": "hi", "contentType": "text/plain"}]
    assert one_request(None) == []
    assert one_request(text_part("a")) == [text_part("a")]
    assert one_request([text_part("a"), {"text": "b"}]) == [text_part("a"), {"text": "b"}]
    with pytest.raises(TypeError, match="int"):
        one_request(7)
