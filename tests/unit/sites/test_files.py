"""What is read of a site's files, and what is refused."""
from __future__ import annotations

import pytest

from sites import tree


@pytest.mark.parametrize("text, expected", [
    ("gateway: [", "is not YAML"),
    ("", "gateway: is missing"),
    ("- a\n", "gateway: is missing"),
    ("gateway: 7\n", "is a number"),
])
def test_a_broken_file_is_one_mistake(master, text, expected):
    (master.pillar / "sites/bern.sls").write_text(text)
    result = master.validate("bern")
    assert len(result["mistakes"]) == 1 and "\n" not in result["mistakes"][0]
    assert expected in result["mistakes"][0]


@pytest.mark.parametrize("value, expected", [
    ("9" * 5000, "a value is none of its type (Exceeds the limit (4300 digits) for integer string conversion: value "
                 "has 5000 digits)"),
    ("!!bool maybe", "a value is none of its type ('maybe'); put it in quotes if it is meant as text"),
    ("!!int x", "a value is none of its type"), ("0x_", "a value is none of its type"),
    ("[" * 5000, "while increasing flow level"), ("[" * 900 + "]" * 900, "it has hundreds of levels"),
])
def test_a_value_that_yaml_cannot_make_is_one_mistake(master, value, expected):
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + f"  time: {{servers: {value}}}\n")
    (line,) = master.validate("bern")["mistakes"]
    assert f"bern.sls: is not YAML: {expected}" in line and "\n" not in line and "sys." not in line


@pytest.mark.parametrize("add, expected", [
    ("# {{ 7 * 7 }}\n", "of pillar/sites/bern.sls has {{, also in a comment a template to Salt; write plain YAML"),
    ("# {# a note #}\n", "of pillar/sites/bern.sls has {#, also in a comment"),
    ("{% if True %}\n{% endif %}\n", "of pillar/sites/bern.sls has {%, also in a comment"),
    ("include: [common]\n", "bern: include: in pillar/sites/bern.sls would change what a node gets"),
    ("gateway_schema: {}\n", "bern: gateway_schema: in pillar/sites/bern.sls would change what a node gets"),
])
def test_what_salt_would_read_otherwise_is_refused(master, add, expected):
    """Salt renders a site file as a template, and what it makes of it may differ from what was checked."""
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + add)
    result = master.validate("bern")
    assert len(result["mistakes"]) == add.count("{%") + (add.count("{%") == 0) and result["retcode"] == 1
    assert all(expected in line and line.startswith("bern: ") for line in result["mistakes"])


@pytest.mark.parametrize("first, wrong", [
    ("#!py", 1), ("#!jinja|gpg|yaml", 1), ("#!yaml", 0), ("#!jinja|yaml", 0), ("#!/usr/bin/yaml", 0), ("# }} %} {", 0)])
def test_a_site_file_is_for_the_yaml_renderer(master, first, wrong):
    file = master.pillar / "sites/bern.sls"
    file.write_text(f"{first}\n{file.read_text()}")
    assert len(master.validate("bern")["mistakes"]) == wrong


def test_a_value_that_python_cannot_write_is_one_mistake(master):
    file = master.pillar / "sites/bern.sls"
    file.write_text(file.read_text() + "  time: {servers: [0x" + "9" * 5000 + "]}\n")
    (line,) = master.validate("bern")["mistakes"]
    assert line.startswith("bern: gateway:time:servers: ")


def test_an_emoji_in_a_yaml_comment_is_nothing(master):
    file = master.pillar / "sites/bern.sls"
    file.write_text(f"# \U0001f600\n{file.read_text()}")
    assert master.validate("bern")["mistakes"] == []


@pytest.mark.parametrize("broken", [
    "gateway_secrets: {heartbeat: {key: s3cret-9", "gateway_secrets: {x: " + "9" * 5000 + "}",
    "gateway_secrets: {{ nothing.at.all }}"])
def test_broken_secrets_are_one_mistake_and_not_shown(master, broken):
    (master.pillar / "secrets/bern.sls").write_text(broken + "\n")
    (line,) = master.validate("bern")["mistakes"]
    assert line.startswith("bern: gateway_secrets: Salt can not read secrets/bern.sls (") and "s3cret" not in line


def test_a_site_is_named_like_its_file(master):
    (master.pillar / "sites/bern.sls").rename(master.pillar / "sites/basel.sls")
    (master.pillar / "secrets/bern.sls").rename(master.pillar / "secrets/basel.sls")
    assert any("basel: gateway:site: bern is not the name of the file" in line
               for line in master.validate("basel")["mistakes"])


@pytest.mark.parametrize("name", ["../secrets/winterthur", "winterthur/../bern", "*", "", "a" * 64, None, 7, "g and *"])
def test_a_name_is_checked_before_it_is_a_path_or_a_target(nodes, monkeypatch, name):
    monkeypatch.setattr(tree, "find", lambda *_: pytest.fail("looked for"))
    assert "is no site's name" in nodes.pair(name)["mistakes"][0]
