"""The names by which a server may be called: its own, those that its user allows, and no stranger's."""

import pytest

from scm.errors import UserError
from scm.product.hosts import hosts_of, is_own


@pytest.mark.parametrize(
    ("header", "bound", "allowed", "arrived", "own"),
    [
        ("localhost", "127.0.0.1", [], "127.0.0.1", True),
        ("LocalHost:5001", "127.0.0.1", [], "127.0.0.1", True),
        ("localhost.", "127.0.0.1", [], "127.0.0.1", True),
        ("127.0.0.1:80", "127.0.0.1", [], "127.0.0.1", True),
        ("[::1]:5001", "::1", [], "::1", True),
        ("box.lan:5001", "box.lan", [], "192.168.1.5", True),
        ("10.0.0.7:5001", "0.0.0.0", [], "10.0.0.7", True),
        ("10.0.0.7", "::", [], "::ffff:10.0.0.7", True),
        ("[fe80::2]", "::", [], "fe80::2", True),
        ("images.example.org", "0.0.0.0", ["Images.example.org"], "172.17.0.2", True),
        ("[fd00::5]:443", "::", ["fd00::5"], "fd00::1", True),
        ("any.thing:1", "0.0.0.0", ["*"], "172.17.0.2", True),
        ("evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("evil.example:5001", "0.0.0.0", ["images.example.org"], "172.17.0.2", False),
        ("10.0.0.8", "0.0.0.0", [], "10.0.0.7", False),
        ("localhost.evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("127.0.0.1.evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("evil.example#localhost", "127.0.0.1", [], "127.0.0.1", False),
        ("localhost@evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("localhost:evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("localhost, evil.example", "127.0.0.1", [], "127.0.0.1", False),
        ("", "127.0.0.1", [], "127.0.0.1", False),
        ("", "127.0.0.1", [], "", False),
        ("[::1", "::1", [], "::1", False),
        ("loc\xe4lhost", "127.0.0.1", [], "127.0.0.1", False),
    ],
)
def test_a_server_knows_its_own_names(header, bound, allowed, arrived, own):
    assert is_own(header, arrived, hosts_of(bound, allowed)) is own


@pytest.mark.parametrize(
    "name", ["http://a.example", "a.example:80", "a.example/x", "", "*.example", "a b", "[::1]:80"]
)
def test_what_is_no_name_cannot_be_allowed(name):
    with pytest.raises(UserError, match=r"must be a name or address alone, such as images\.example\.org"):
        hosts_of("127.0.0.1", [name])
