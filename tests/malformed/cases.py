"""Files that are no valid safetensors files, with the exact words for each, and unusual files that are valid.

One table, read by the tests of the messages (test_malformed.py) and by the comparison with the safetensors package
(../differential/test_verdicts.py). The C++ tests of the core have the same cases.
"""
# A case is a line.
# ruff: noqa: E501

import struct
from typing import NamedTuple


class Case(NamedTuple):
    id: str
    content: bytes
    message: str | None  # None: the file is valid


def file(header: bytes, data: int = 0) -> bytes:
    """A whole file: the length, the header as given, and `data` bytes that count up from 0."""
    return struct.pack("<Q", len(header)) + header + bytes(i % 256 for i in range(data))


def tensor(fields: bytes) -> bytes:
    """A header of one tensor that has these fields."""
    return b'{"w":{' + fields + b"}}"


def not_json(why: str, byte: int) -> str:
    return f"the header is not valid JSON: {why} (near byte {byte} of the file)"


MISPLACED = "a comma, colon, quote or bracket is missing or misplaced"
WRONG_STRING = "a string has a wrong escape or half a surrogate pair"
WEB_PAGE = (
    "this is an HTML page, not a safetensors file: a server answered with a web page (login, error or landing page) "
    "when the file was downloaded; download the file itself"
)
MOST = 2**61 - 1  # bytes whose bits 64 bits can count

# fmt: off
REJECTED = [
    # the first 8 bytes
    Case("empty", b"", "the file is empty"),
    Case("one-byte", b"{", "the file has 1 byte; a safetensors file begins with 8 bytes that hold the header length"),
    Case("seven-bytes", b"\x02\0\0\0\0\0\0", "the file has 7 bytes; a safetensors file begins with 8 bytes that hold the header length"),
    Case("zero-length", b"\0\0\0\0\0\0\0\0", "the header length is 0; the shortest header is '{}'"),
    Case("over-the-limit", b"\x01\xe1\xf5\x05\0\0\0\0{}", "the header length is 100000001, over the limit of 100000000: this is not a safetensors file, or its first bytes are damaged"),
    Case("all-bits-set", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "the header length is 18446744073709551615, over the limit of 100000000: this is not a safetensors file, or its first bytes are damaged"),
    Case("length-only", b"\x02\0\0\0\0\0\0\0", "the header ends at byte 10 but the file has 8 bytes: 2 bytes are missing"),
    Case("truncated-header", b"\x03\0\0\0\0\0\0\0{}", "the header ends at byte 11 but the file has 10 bytes: 1 byte is missing"),
    # files of another kind
    Case("git-lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n", "this is a Git LFS pointer, not the file it stands for: fetch the file with 'git lfs pull'"),
    Case("html", b"\r\n<!DOCTYPE HTML><html><title>Sign in</title></html>", WEB_PAGE),
    Case("html-without-doctype", b"\xef\xbb\xbf<html><body>502 Bad Gateway</body></html>", WEB_PAGE),
    Case("html-of-six-bytes", b"<html>", WEB_PAGE),
    Case("xml", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "this is an XML document, not a safetensors file: often the error response of an object store, saved in its place"),
    Case("zip", b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0archive/data.pkl", "this is a zip archive, not a safetensors file: often a PyTorch checkpoint (.pt, .bin), which has to be converted"),
    # JSON
    Case("lone-brace", file(b"{"), "the header is not valid JSON: it does not end with the '}' of its object"),
    Case("blank", file(b"   "), "the header is blank; an object is expected"),
    Case("not-utf-8", file(b'{"\xff":1}'), "the header is not UTF-8"),
    Case("utf-8-cut-short", file(b'{"\xe4\xb8":1}'), "the header is not UTF-8"),
    Case("utf-8-of-a-surrogate", file(b'{"\xed\xa0\x80":1}'), "the header is not UTF-8"),
    Case("overlong-utf-8", file(b'{"\xc0\xaf":1}'), "the header is not UTF-8"),
    Case("byte-order-mark", file(b"\xef\xbb\xbf{}"), "the header begins with a byte order mark instead of '{'"),
    Case("top-level-array", file(b"[]"), "the header is an array; an object is expected"),
    Case("top-level-string", file(b'"{}"'), 'the header is "{}"; an object is expected'),
    Case("top-level-number", file(b"17"), "the header is 17; an object is expected"),
    Case("top-level-null", file(b"null"), "the header is null; an object is expected"),
    Case("trailing-junk", file(b"{}x"), "the header is not valid JSON: it does not end with the '}' of its object"),
    Case("trailing-object", file(b"{} {}"), not_json("text follows its object", 11)),
    Case("trailing-brace", file(b"{}}"), not_json("text follows its object", 10)),
    Case("trailing-nul", file(b"{}\0"), "the header is not valid JSON: it does not end with the '}' of its object"),
    Case("trailing-form-feed", file(b"{}\f"), "the header is not valid JSON: it does not end with the '}' of its object"),
    Case("comma-only", file(b"{,}"), not_json(MISPLACED, 8)),
    Case("trailing-comma", file(rb'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},}', 1), not_json(MISPLACED, 57)),
    Case("trailing-comma-in-entry", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],'), 1), not_json(MISPLACED, 57)),
    Case("trailing-comma-in-shape", file(tensor(rb'"dtype":"U8","shape":[1,],"data_offsets":[0,1]'), 1), not_json("a value is missing", 38)),
    Case("trailing-comma-in-offsets", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1,]'), 1), not_json("a value is missing", 59)),
    Case("missing-comma", file(tensor(rb'"dtype":"U8" "shape":[1],"data_offsets":[0,1]'), 1), not_json(MISPLACED, 22)),
    Case("missing-colon", file(tensor(rb'"dtype" "U8","shape":[1],"data_offsets":[0,1]'), 1), not_json(MISPLACED, 9)),
    Case("missing-value", file(tensor(rb'"dtype":,"shape":[1],"data_offsets":[0,1]'), 1), not_json("a value is missing", 22)),
    Case("unquoted-key", file(b"{w:1}"), not_json(MISPLACED, 8)),
    Case("single-quotes", file(b"{'w':1}"), not_json(MISPLACED, 8)),
    Case("comment", file(b"{/**/}"), not_json(MISPLACED, 8)),
    Case("unclosed-string", file(b'{"w}'), "the header is not valid JSON: a string is not closed"),
    Case("unclosed-entry", file(rb'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', 1), not_json(MISPLACED, 57)),
    Case("unclosed-array", file(tensor(rb'"dtype":"U8","shape":[1,"data_offsets":[0,1]'), 1), "a dimension of 'w' is \"data_offsets\"; a whole number from 0 to 2^64 - 1 is expected"),
    Case("wrong-bracket", file(tensor(rb'"dtype":"U8","shape":[1},"data_offsets":[0,1]'), 1), not_json(MISPLACED, 36)),
    Case("control-character-in-name", file(b'{"w\n":1}'), "the header is not valid JSON: a string holds a control character"),
    Case("wrong-escape", file(rb'{"\x41":1}'), not_json(WRONG_STRING, 9)),
    Case("short-unicode-escape", file(rb'{"\u12":1}'), not_json(WRONG_STRING, 9)),
    Case("high-surrogate-in-name", file(rb'{"\ud800":1}'), not_json(WRONG_STRING, 9)),
    Case("low-surrogate-in-name", file(rb'{"\udc00":1}'), not_json(WRONG_STRING, 9)),
    Case("two-high-surrogates", file(rb'{"\ud800\ud800":1}'), not_json(WRONG_STRING, 9)),
    Case("high-surrogate-before-text", file(rb'{"\ud800x":1}'), not_json(WRONG_STRING, 9)),
    Case("high-surrogate-at-the-end", file(rb'{"__metadata__":{"k":"\udbff"}}'), not_json(WRONG_STRING, 29)),
    Case("low-surrogate-in-metadata", file(rb'{"__metadata__":{"k":"\udfff"}}'), not_json(WRONG_STRING, 29)),
    Case("surrogate-in-unknown-value", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":["\ud800"]'), 1), not_json(WRONG_STRING, 65)),
    Case("nan-dimension", file(tensor(rb'"dtype":"U8","shape":[NaN],"data_offsets":[0,1]'), 1), not_json("NaN is not a value", 36)),
    Case("nan-in-unknown-value", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":NaN'), 1), not_json("NaN is not a value", 64)),
    Case("infinity-in-unknown-value", file(tensor(rb'"x":-Infinity')), not_json("-Infinity is not a value", 18)),
    Case("huge-number-in-unknown-value", file(tensor(rb'"x":1e999')), not_json("1e999 is not a value", 18)),
    Case("leading-zero", file(tensor(rb'"dtype":"U8","shape":[01],"data_offsets":[0,1]'), 1), not_json("01 is not a value", 36)),
    Case("leading-zero-in-unknown-value", file(tensor(rb'"x":01')), not_json("01 is not a value", 18)),
    Case("leading-plus", file(tensor(rb'"x":+1')), not_json("+1 is not a value", 18)),
    Case("no-fraction", file(tensor(rb'"x":1.')), not_json("1. is not a value", 18)),
    Case("no-integer", file(tensor(rb'"x":.5')), not_json(".5 is not a value", 18)),
    Case("no-exponent", file(tensor(rb'"x":1e')), not_json("1e is not a value", 18)),
    Case("minus-only", file(tensor(rb'"x":-')), not_json("- is not a value", 18)),
    Case("hexadecimal", file(tensor(rb'"x":0x10')), not_json("0x10 is not a value", 18)),
    Case("short-true", file(tensor(rb'"x":tru')), not_json("tru is not a value", 18)),
    Case("long-true", file(tensor(rb'"x":truey')), not_json("truey is not a value", 18)),
    Case("upper-false", file(tensor(rb'"x":False')), not_json("False is not a value", 18)),
    Case("short-null", file(tensor(rb'"x":nul')), not_json("nul is not a value", 18)),
    Case("long-null", file(rb'{"__metadata__":nullx}'), not_json("nullx is not a value", 24)),
    Case("deep-arrays", file(tensor(rb'"x":' + b"[" * 126 + b"]" * 126)), "the header nests deeper than 127 levels"),
    Case("deep-objects", file(tensor(b'"x":' + b'{"k":' * 126 + b"0" + b"}" * 126)), "the header nests deeper than 127 levels"),
    Case("very-deep-arrays", file(tensor(rb'"x":' + b"[" * 100000 + b"]" * 100000)), "the header nests deeper than 127 levels"),
    Case("deep-top-level", file(b"[" * 100000), "the header is an array; an object is expected"),
    # keys that occur twice
    Case("twice-tensors", file(rb'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), "the key 'w' occurs twice in the header"),
    Case("twice-tensors-once-escaped", file(rb'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0077":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2), "the key 'w' occurs twice in the header"),
    Case("twice-metadata", file(rb'{"__metadata__":{},"__metadata__":{}}'), "the key '__metadata__' occurs twice in the header"),
    Case("twice-metadata-keys", file(rb'{"__metadata__":{"format":"pt","format":"np"}}'), "the key 'format' occurs twice in __metadata__"),
    Case("twice-fields", file(tensor(rb'"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]'), 1), "the key 'dtype' occurs twice in the entry of 'w'"),
    Case("twice-unknown-fields", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1,"x":1'), 1), "the key 'x' occurs twice in the entry of 'w'"),
    Case("twice-inside-an-unknown-value", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[{"k":1,"k":2}]'), 1), "the key 'k' occurs twice in one object"),
    # the types of values
    Case("entry-is-a-number", file(rb'{"w":1}'), "the entry of 'w' is 1; an object with dtype, shape and data_offsets is expected"),
    Case("entry-is-null", file(rb'{"w":null}'), "the entry of 'w' is null; an object with dtype, shape and data_offsets is expected"),
    Case("entry-is-an-array", file(rb'{"w":["U8",[1],[0,1]]}', 1), "the entry of 'w' is an array; an object with dtype, shape and data_offsets is expected"),
    Case("entry-is-a-string", file(rb'{"format":"pt"}'), "the entry of 'format' is \"pt\"; an object with dtype, shape and data_offsets is expected"),
    Case("no-dtype", file(tensor(rb'"shape":[1],"data_offsets":[0,1]'), 1), "the entry of 'w' has no dtype"),
    Case("no-shape", file(tensor(rb'"dtype":"U8","data_offsets":[0,1]'), 1), "the entry of 'w' has no shape"),
    Case("no-offsets", file(tensor(rb'"dtype":"U8","shape":[1]'), 1), "the entry of 'w' has no data_offsets"),
    Case("empty-entry", file(tensor(b"")), "the entry of 'w' has no dtype"),
    Case("unknown-dtype", file(tensor(rb'"dtype":"F128","shape":[1],"data_offsets":[0,16]'), 16), "dtype of 'w' is 'F128', which is not a dtype of safetensors"),
    Case("lower-case-dtype", file(tensor(rb'"dtype":"f32","shape":[1],"data_offsets":[0,4]'), 4), "dtype of 'w' is 'f32', which is not a dtype of safetensors"),
    Case("dtype-is-a-number", file(tensor(rb'"dtype":7,"shape":[1],"data_offsets":[0,1]'), 1), "dtype of 'w' is 7; a string is expected"),
    Case("dtype-is-null", file(tensor(rb'"dtype":null,"shape":[1],"data_offsets":[0,1]'), 1), "dtype of 'w' is null; a string is expected"),
    Case("dtype-is-an-object", file(tensor(rb'"dtype":{"U8":null},"shape":[1],"data_offsets":[0,1]'), 1), "dtype of 'w' is an object; a string is expected"),
    Case("shape-is-a-number", file(tensor(rb'"dtype":"U8","shape":1,"data_offsets":[0,1]'), 1), "shape of 'w' is 1; an array is expected"),
    Case("shape-is-null", file(tensor(rb'"dtype":"U8","shape":null,"data_offsets":[0,1]'), 1), "shape of 'w' is null; an array is expected"),
    Case("negative-dimension", file(tensor(rb'"dtype":"U8","shape":[-1],"data_offsets":[0,1]'), 1), "a dimension of 'w' is -1; a whole number from 0 to 2^64 - 1 is expected"),
    Case("negative-zero", file(tensor(rb'"dtype":"U8","shape":[-0],"data_offsets":[0,0]')), "a dimension of 'w' is -0; a whole number from 0 to 2^64 - 1 is expected"),
    Case("fractional-dimension", file(tensor(rb'"dtype":"U8","shape":[1.0],"data_offsets":[0,1]'), 1), "a dimension of 'w' is 1.0; a whole number from 0 to 2^64 - 1 is expected"),
    Case("exponent-dimension", file(tensor(rb'"dtype":"U8","shape":[1e0],"data_offsets":[0,1]'), 1), "a dimension of 'w' is 1e0; a whole number from 0 to 2^64 - 1 is expected"),
    Case("string-dimension", file(tensor(rb'"dtype":"U8","shape":["1"],"data_offsets":[0,1]'), 1), "a dimension of 'w' is \"1\"; a whole number from 0 to 2^64 - 1 is expected"),
    Case("null-dimension", file(tensor(rb'"dtype":"U8","shape":[null],"data_offsets":[0,1]'), 1), "a dimension of 'w' is null; a whole number from 0 to 2^64 - 1 is expected"),
    Case("bool-dimension", file(tensor(rb'"dtype":"U8","shape":[true],"data_offsets":[0,1]'), 1), "a dimension of 'w' is true; a whole number from 0 to 2^64 - 1 is expected"),
    Case("array-dimension", file(tensor(rb'"dtype":"U8","shape":[[1]],"data_offsets":[0,1]'), 1), "a dimension of 'w' is an array; a whole number from 0 to 2^64 - 1 is expected"),
    Case("dimension-of-2-to-64", file(tensor(rb'"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]'), 1), "a dimension of 'w' is 18446744073709551616; a whole number from 0 to 2^64 - 1 is expected"),
    Case("offsets-are-a-number", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":1'), 1), "data_offsets of 'w' is 1; an array is expected"),
    Case("no-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[]'), 1), "data_offsets of 'w' holds 0 numbers; 2 are expected, begin and end"),
    Case("one-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[1]'), 1), "data_offsets of 'w' holds 1 number; 2 are expected, begin and end"),
    Case("three-offsets", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1,2]'), 1), "data_offsets of 'w' holds 3 numbers; 2 are expected, begin and end"),
    Case("negative-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[-1,0]'), 1), "an offset of 'w' is -1; a whole number from 0 to 2^64 - 1 is expected"),
    Case("fractional-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1.5]'), 1), "an offset of 'w' is 1.5; a whole number from 0 to 2^64 - 1 is expected"),
    Case("string-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":["0","1"]'), 1), "an offset of 'w' is \"0\"; a whole number from 0 to 2^64 - 1 is expected"),
    Case("null-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,null]'), 1), "an offset of 'w' is null; a whole number from 0 to 2^64 - 1 is expected"),
    Case("bool-offset", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[false,true]'), 1), "an offset of 'w' is false; a whole number from 0 to 2^64 - 1 is expected"),
    Case("offset-of-2-to-64", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,18446744073709551616]'), 1), "an offset of 'w' is 18446744073709551616; a whole number from 0 to 2^64 - 1 is expected"),
    Case("metadata-is-an-array", file(rb'{"__metadata__":[]}'), "__metadata__ is an array; an object of strings is expected"),
    Case("metadata-is-a-string", file(rb'{"__metadata__":"pt"}'), '__metadata__ is "pt"; an object of strings is expected'),
    Case("metadata-value-is-a-number", file(rb'{"__metadata__":{"step":7}}'), "the value of 'step' in __metadata__ is 7; a string is expected"),
    Case("metadata-value-is-null", file(rb'{"__metadata__":{"step":null}}'), "the value of 'step' in __metadata__ is null; a string is expected"),
    Case("metadata-value-is-an-object", file(rb'{"__metadata__":{"config":{}}}'), "the value of 'config' in __metadata__ is an object; a string is expected"),
    # the rules of the format
    Case("nul-in-name", file(rb'{"a\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), "the tensor name 'a\\x00b' holds a NUL character"),
    Case("end-before-begin", file(tensor(rb'"dtype":"U8","shape":[0],"data_offsets":[4,0]')), "data_offsets of 'w' are [4, 0]: the end is before the begin"),
    Case("first-not-at-zero", file(tensor(rb'"dtype":"U8","shape":[4],"data_offsets":[4,8]'), 8), "data_offsets of 'w' begin at 4; the first tensor must begin at 0"),
    Case("hole", file(rb'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}}', 12), "data_offsets of 'b' begin at 8, but 'a' before it ends at 4: a gap of 4 bytes"),
    Case("overlap", file(rb'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}', 7), "data_offsets of 'b' begin at 3, but 'a' before it ends at 4: they overlap"),
    Case("inside-another", file(rb'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}', 8), "data_offsets of 'b' begin at 2, but 'a' before it ends at 8: they overlap"),
    Case("empty-inside-another", file(rb'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}', 8), "data_offsets of 'b' begin at 2, but 'a' before it ends at 8: they overlap"),
    Case("ten-on-one-range", file(b"{" + b",".join(rb'"w%d":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}' % i for i in range(10)) + b"}", 16), "data_offsets of 'w1' begin at 0, but 'w0' before it ends at 16: they overlap"),
    Case("too-few-bytes", file(tensor(rb'"dtype":"I32","shape":[2,2],"data_offsets":[0,4]'), 4), "'w' (I32, shape [2, 2]) takes 16 bytes, but its data_offsets [0, 4] hold 4 bytes"),
    Case("too-many-bytes", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,2]'), 2), "'w' (U8, shape [1]) takes 1 byte, but its data_offsets [0, 2] hold 2 bytes"),
    Case("bytes-for-an-empty-shape", file(tensor(rb'"dtype":"U8","shape":[3,0],"data_offsets":[0,1]'), 1), "'w' (U8, shape [3, 0]) takes 0 bytes, but its data_offsets [0, 1] hold 1 byte"),
    Case("elements-overflow", file(tensor(rb'"dtype":"U8","shape":[2,18446744073709551614],"data_offsets":[0,16]'), 16), "the size of 'w' (U8, shape [2, 18446744073709551614]) is more than 64 bits can count"),
    Case("size-overflow", file(tensor(rb'"dtype":"I32","shape":[2,9223372036854775807],"data_offsets":[0,16]'), 16), "the size of 'w' (I32, shape [2, 9223372036854775807]) is more than 64 bits can count"),
    Case("overflow-before-a-zero", file(tensor(rb'"dtype":"U8","shape":[9223372036854775808,4,0],"data_offsets":[0,0]')), "the size of 'w' (U8, shape [9223372036854775808, 4, 0]) is more than 64 bits can count"),
    Case("half-byte-f-4", file(tensor(rb'"dtype":"F4","shape":[3],"data_offsets":[0,2]'), 2), "'w' (F4, shape [3]) has 12 bits, which is not a whole number of bytes"),
    Case("part-byte-f-6", file(tensor(rb'"dtype":"F6_E2M3","shape":[2],"data_offsets":[0,2]'), 2), "'w' (F6_E2M3, shape [2]) has 12 bits, which is not a whole number of bytes"),
    Case("largest-offset", file(tensor(rb'"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]'), 1), "data of 'w' ends at byte 2305843009213694048 but the file has 98 bytes: 2305843009213693950 bytes are missing"),
    Case("end-past-any-file", file(b"{" + b",".join(rb'"w%d":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}' % (i, MOST, i * MOST, (i + 1) * MOST) for i in range(8)) + b"}", 1), "data_offsets of 'w7' end at 18446744073709551608, which no file can reach"),
    Case("data-short", file(tensor(rb'"dtype":"U8","shape":[40],"data_offsets":[0,40]'), 20), "data of 'w' ends at byte 103 but the file has 83 bytes: 20 bytes are missing"),
    Case("data-short-by-one", file(tensor(rb'"dtype":"U8","shape":[40],"data_offsets":[0,40]'), 39), "data of 'w' ends at byte 103 but the file has 102 bytes: 1 byte is missing"),
    Case("no-data", file(tensor(rb'"dtype":"U8","shape":[40],"data_offsets":[0,40]')), "data of 'w' ends at byte 103 but the file has 63 bytes: 40 bytes are missing"),
    Case("trailing-bytes", file(tensor(rb'"dtype":"U8","shape":[40],"data_offsets":[0,40]'), 47), "data of 'w' ends at byte 103 but the file has 110 bytes: 7 bytes too many"),
    Case("bytes-after-an-empty-header", file(b"{}", 5), "the header names no tensor, but 5 bytes follow it"),
    Case("hostile-name", file(b'{"\\u001b[31m\\n":1}'), "the entry of '\\x1b[31m\\x0a' is 1; an object with dtype, shape and data_offsets is expected"),
    Case("long-name", file(b'{"' + b"n" * 5000 + b'":1}'), "the entry of 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn...' (5000 bytes) is 1; an object with dtype, shape and data_offsets is expected"),
    Case("long-exponent", file(tensor(rb'"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1e-99999999999999999999'), 1), not_json("1e-99999999999999999999 is not a value", 64)),
]
# fmt: on

U8 = rb'"dtype":"U8","shape":[1],"data_offsets":[0,1]'
SHARED = [
    rb'"full":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}',
    rb'"before":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}',
    rb'"after":{"dtype":"F64","shape":[3,0],"data_offsets":[4,4]}',
]

# fmt: off
ACCEPTED = [
    Case("no-tensors", file(b"{}"), None),
    Case("blanks-around", file(b"\t\n{}\r "), None),
    Case("blanks-inside", file(b" { } "), None),
    Case("empty-shape", file(tensor(rb'"dtype":"I32","shape":[],"data_offsets":[0,4]'), 4), None),
    Case("zero-dimension", file(tensor(rb'"dtype":"I32","shape":[2,0],"data_offsets":[0,0]')), None),
    Case("shared-offset-full-first", file(b"{" + b",".join(SHARED) + b"}", 4), None),
    Case("shared-offset-full-last", file(b"{" + b",".join(SHARED[::-1]) + b"}", 4), None),
    Case("unsorted-keys", file(rb'{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 2), None),
    Case("unaligned", file(rb'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F64","shape":[2],"data_offsets":[1,17]}}', 17), None),
    Case("unknown-keys", file(tensor(U8 + rb',"x":{"a":[1,-2.5e3,true,false,null,"\u00e9",{}],"b":[]},"":"s"'), 1), None),
    Case("unknown-big-integer", file(tensor(U8 + rb',"x":123456789012345678901234567890'), 1), None),
    Case("unknown-tiny-number", file(tensor(U8 + rb',"x":1e-999'), 1), None),
    Case("unknown-value-125-deep", file(tensor(U8 + b',"x":' + b"[" * 125 + b"]" * 125), 1), None),
    Case("escaped-keys", file(rb'{"\u0077\n\ud83d\ude00":{"d\u0074ype":"\u00558","shape":[1],"data_offsets":[0,1]}}', 1), None),
    Case("empty-name", file(rb'{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1), None),
    Case("name-with-dots-and-slashes", file('{"ä/../中":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.encode(), 1), None),
    Case("metadata", file(rb'{"__metadata__":{"format":"pt","k":"\u0000"}}'), None),
    Case("metadata-only-empty", file(rb'{"__metadata__":{}}'), None),
    Case("metadata-null", file(rb'{"__metadata__":null}'), None),
    Case("metadata-key-escaped", file(rb'{"\u005f_metadata__":{"format":"pt"}}'), None),
]

# Valid, but no framework has tensors of that shape.
ACCEPTED_HEADERS = [
    Case("zero-before-overflow", file(tensor(rb'"dtype":"U8","shape":[0,9223372036854775808,4],"data_offsets":[0,0]')), None),
]
# fmt: on
