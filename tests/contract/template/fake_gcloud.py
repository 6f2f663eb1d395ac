"""A gcloud without a cloud: it keeps what it made in $FAKE_GCLOUD/state.json and notes every call in $FAKE_GCLOUD/calls.

It knows only the commands and flags below, as gcloud 528.0.0 documents them, refuses everything else, and like the real one refuses to
make what exists and to describe what does not. $FAKE_GCLOUD_FAIL is a pattern: a call that matches it is denied.
$FAKE_GCLOUD_SLOW is how many bindings a new service account stays unknown to.
"""

import json
import os
import re
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_GCLOUD"])
PLACE = {"location", "workload-identity-pool"}
TRUST = {"account-id", "attribute-mapping", "attribute-condition"}
FIREWALL = {"allow", "source-ranges", "target-tags"}
BUCKET = {"uniform-bucket-level-access", "public-access-prevention", "soft-delete-duration", "lifecycle-file"}
COMMANDS = {
    "projects describe": {"format"},
    "projects get-iam-policy": {"format"},
    "projects add-iam-policy-binding": {"role", "member", "condition"},
    "services list": {"enabled", "format"},
    "services enable": set(),
    "iam service-accounts describe": {"format"},
    "iam service-accounts create": {"display-name"},
    "iam service-accounts get-iam-policy": {"format"},
    "iam service-accounts add-iam-policy-binding": {"role", "member"},
    "iam roles describe": {"format"},
    "iam roles create": {"title", "stage", "permissions"},
    "iam roles update": {"permissions"},
    "storage buckets list": {"filter", "format"},
    "storage buckets describe": {"format"},
    "storage buckets create": {"location", *BUCKET},
    "storage buckets update": BUCKET,
    "storage buckets get-iam-policy": {"format"},
    "storage buckets add-iam-policy-binding": {"role", "member"},
    "compute firewall-rules describe": {"format"},
    "compute firewall-rules create": {"network", "direction", *FIREWALL},
    "compute firewall-rules update": {"no-disabled", *FIREWALL},
    "iam workload-identity-pools describe": {"format", "location"},
    "iam workload-identity-pools create": {"display-name", "location"},
    "iam workload-identity-pools providers describe": {"format", *PLACE},
    "iam workload-identity-pools providers create-aws": TRUST | PLACE,
    "iam workload-identity-pools providers update-aws": {"no-disabled"} | TRUST | PLACE,
}


def fail(words):
    print(f"ERROR: (gcloud) {words}", file=sys.stderr)
    sys.exit(1)


def parse(arguments):
    words = [a for a in arguments if not a.startswith("--")]
    flags = dict((a[2:].split("=", 1) + ["yes"])[:2] for a in arguments if a.startswith("--"))
    command = max((c for c in COMMANDS if words[: len(c.split())] == c.split()), key=len, default=None)
    if command is None:
        fail(f"Invalid choice: {words}")
    names = words[len(command.split()) :]
    if unknown := flags.keys() - COMMANDS[command] - {"project"}:
        fail(f"unrecognized arguments: {sorted(unknown)}")
    if len(names) != (0 if command in ("services list", "storage buckets list") else 1):
        fail(f"takes one name, got {names}")
    return command, names[0] if names else None, flags


def pick(thing, form):
    """What `--format` shows of it."""
    if form == "json":
        return json.dumps(thing)
    if only := re.fullmatch(r"json\((\w+)\)", form):
        return json.dumps({only[1]: thing[only[1]]} if only[1] in thing else {})
    separator, keys = "\t", re.fullmatch(r'value(?:\[separator="(.)"\])?\((.*)\)', form)
    separator = keys[1] or separator
    shown = []
    for key in keys[2].split(","):
        value = thing
        for part in key.removesuffix(".list()").removesuffix(".map().firewall_rule()").removesuffix(".basename()").split("."):
            value = (value or {}).get(part.removesuffix("[]"), "")
        if key.endswith(".basename()"):
            value = value.rsplit("/", 1)[-1]
        shown.append((";" if "." not in key else ",").join(value) if isinstance(value, list) else str(value))
    return separator.join(shown)


def settle(thing, flags):
    """Puts the flags of a create or update into the thing, shaped as the real answers are."""
    shape = {
        "allow": lambda v: {"allowed": v.split(",")},
        "source-ranges": lambda v: {"sourceRanges": v.split(",")},
        "target-tags": lambda v: {"targetTags": v.split(",")},
        "no-disabled": lambda _: {"disabled": False},
        "direction": lambda v: {"direction": v},
        "network": lambda v: {"network": f"https://www.googleapis.com/compute/v1/projects/p/global/networks/{v}"},
        "permissions": lambda v: {"includedPermissions": sorted(v.split(","))},
        "uniform-bucket-level-access": lambda _: {"uniform_bucket_level_access": True},
        "public-access-prevention": lambda _: {"public_access_prevention": "enforced"},
        "soft-delete-duration": lambda v: {"soft_delete_policy": {"retentionDurationSeconds": v}},
        "lifecycle-file": lambda v: {"lifecycle_config": json.loads(Path(v).read_text())},
        "account-id": lambda v: {"aws": {"accountId": v}},
        "attribute-condition": lambda v: {"attributeCondition": v},
        "attribute-mapping": lambda v: {"attributeMapping": dict(pair.split("=", 1) for pair in v.split(","))},
    }
    for flag, value in flags.items():
        thing.update(shape[flag](value) if flag in shape else {flag: value})


def run(state, command, name, flags):
    kind, verb = command.rsplit(" ", 1)
    form = flags.pop("format", None)
    name = (name or "").removeprefix("gs://")
    things = state.setdefault(kind, {})
    if command == "services list":
        return "\n".join(things)
    if command == "services enable":
        things[name] = {}
        return ""
    if command == "storage buckets list":
        wanted = flags["filter"].removeprefix("name=")
        return wanted if wanted in things else ""
    if verb.startswith("create"):
        key = f"{name}@{flags['project']}.iam.gserviceaccount.com" if kind == "iam service-accounts" else name
        if key in things:
            fail(f"ALREADY_EXISTS: {name} already exists")
        if kind == "storage buckets" and name in state.get("taken", []):
            fail("HTTPError 409: The requested bucket name is not available.")
        things[key] = {"name": key, "email": key, "state": "ACTIVE"}
        if kind in ("compute firewall-rules", "iam workload-identity-pools providers"):
            things[key]["disabled"] = False
        settle(things[key], flags)
        return ""
    if name not in things:
        fail(f"NOT_FOUND: {name} was not found")
    if verb == "describe":
        return pick(things[name], form)
    if verb.startswith("update"):
        settle(things[name], flags)
        return ""
    if verb == "get-iam-policy":
        return json.dumps({"bindings": things[name].get("policy", []), "etag": "x"})
    if flags["member"].startswith("serviceAccount:"):
        if state.setdefault("slow", int(os.environ.get("FAKE_GCLOUD_SLOW", "0"))) > 0:
            state["slow"] -= 1
            (HOME / "state.json").write_text(json.dumps(state))
            fail("INVALID_ARGUMENT: Service account warmspare does not exist.")
        if flags["member"].split(":", 1)[1] not in state.get("iam service-accounts", {}):
            fail("INVALID_ARGUMENT: Service account does not exist.")
    things[name].setdefault("policy", []).append({"role": flags["role"], "members": [flags["member"]]})
    return ""


def main():
    arguments = sys.argv[1:]
    with (HOME / "calls").open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    pattern = os.environ.get("FAKE_GCLOUD_FAIL")
    if pattern and re.search(pattern, " ".join(arguments)):
        fail("PERMISSION_DENIED: the caller does not have permission")
    command, name, flags = parse(arguments)
    stored = HOME / "state.json"
    state = json.loads(stored.read_text())
    shown = run(state, command, name, flags)
    stored.write_text(json.dumps(state, indent=1))
    if shown:
        print(shown)


main()
