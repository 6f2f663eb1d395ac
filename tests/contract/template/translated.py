"""The template as people write it, and as CloudFormation receives it."""

import copy
import re
from pathlib import Path

import yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ROOT = Path(__file__).resolve().parents[3]
TEMPLATE = ROOT / "infra" / "template.yaml"


class CloudFormationLoader(yaml.SafeLoader):
    """Reads `!Ref x` and its like as the mappings that they stand for."""


def _tag(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


CloudFormationLoader.add_multi_constructor("!", _tag)


def read(text=None):
    """The template, parsed."""
    return yaml.load(TEMPLATE.read_text() if text is None else text, CloudFormationLoader)  # noqa: S506


def translate(source):
    """What CloudFormation makes of it. A local CodeUri becomes an address in S3, as uploading would make it."""
    source = copy.deepcopy(source)
    for name, resource in source["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = f"s3://bucket/{name}.zip"
    # No managed policies: the translator would ask AWS for their list, and the template names none.
    return Translator({}, Parser()).translate(source, parameter_values={})


def of_type(template, kind):
    """Its resources of one type: logical id to properties."""
    return {name: r.get("Properties", {}) for name, r in template["Resources"].items() if r["Type"] == kind}


def references(value):
    """Every logical id that a value mentions by Ref, GetAtt or Sub."""
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "Ref":
                yield item
            elif key == "Fn::GetAtt":
                yield item[0] if isinstance(item, list) else item.split(".", 1)[0]
            elif key == "Fn::Sub":
                text, own = (item[0], item[1]) if isinstance(item, list) else (item, {})
                yield from (name.split(".", 1)[0] for name in re.findall(r"\$\{([^!}]+)\}", text) if name not in own)
                yield from references(own)
            else:
                yield from references(item)


def cycle(template):
    """A chain of resources that wait for each other, or None."""
    resources = template["Resources"]
    edges = {}
    for name, resource in resources.items():
        named = set(references(resource.get("Properties", {}))) & resources.keys()
        waits = resource.get("DependsOn", [])
        edges[name] = sorted(named | set([waits] if isinstance(waits, str) else waits))
    done = set()

    def walk(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for after in edges[name]:
            if found := walk(after, [*path, name]):
                return found
        done.add(name)
        return None

    return next((found for name in edges if (found := walk(name, []))), None)
