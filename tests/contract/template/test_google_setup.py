"""infra/google-setup.sh against a gcloud without a cloud."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import translated as t  # noqa: E402

SCRIPT = t.ROOT / "infra" / "google-setup.sh"
FAKE = Path(__file__).parent / "fake_gcloud.py"
ARGUMENTS = {"--project": "my-project-1", "--aws-account": "123456789012", "--bucket": "my-associations", "--deployment": "test-1"}
ADDRESS = "warmspare-test-1@my-project-1.iam.gserviceaccount.com"
FUNCTIONS = ["on_gpu_created", "on_gpu_destroyed", "mark_gpu_failed", "vast_webhook", "api", "planner", "sync_tick", "sweep"]
CHANGING = {"create", "create-aws", "update", "update-aws", "enable", "add-iam-policy-binding"}


class Google:
    def __init__(self, home):
        self.home = home
        (home / "bin").mkdir()
        gcloud = home / "bin" / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKE}" "$@"\n')
        gcloud.chmod(0o755)
        self.save({"projects": {"my-project-1": {"projectNumber": "4711"}}})

    def state(self):
        return json.loads((self.home / "state.json").read_text())

    def save(self, state):
        (self.home / "state.json").write_text(json.dumps(state))

    def set_up(self, *extra, without=(), **environment):
        (self.home / "calls").write_text("")
        arguments = [word for pair in ARGUMENTS.items() if pair[0] not in without for word in pair]
        # The Python that runs the tests before others: a version manager's wrapper would take longer than the script.
        path = f"{self.home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            [SCRIPT, *arguments, *extra], capture_output=True, text=True, check=False, timeout=60,
            env={"PATH": path, "HOME": str(self.home), "FAKE_GCLOUD": str(self.home), **environment})

    def changes(self):
        calls = [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]
        return [call for call in calls if CHANGING & set(call)]


@pytest.fixture
def google(tmp_path):
    return Google(tmp_path)


def ends(run):
    return sorted({line.split(" ", 1)[0] for line in run.stdout.split("\n\n")[0].splitlines()})


def test_the_first_run_makes_everything(google):
    run = google.set_up()
    assert (run.returncode, run.stderr) == (0, "")
    assert ends(run) == ["done"]
    state = google.state()
    assert sorted(state["services"]) == [
        f"{api}.googleapis.com" for api in ("cloudbilling", "cloudresourcemanager", "compute", "iam", "iamcredentials", "storage", "sts")]
    bucket = state["storage buckets"]["my-associations"]
    assert bucket["uniform_bucket_level_access"] is True
    assert bucket["public_access_prevention"] == "enforced"
    assert bucket["soft_delete_policy"] == {"retentionDurationSeconds": "0"}
    assert bucket["lifecycle_config"]["rule"] == [{"action": {"type": "Delete"}, "condition": {"daysSinceCustomTime": 30}}]
    assert [(b["role"], b["members"]) for b in bucket["policy"]] == [
        ("projects/my-project-1/roles/warmspare_test_1_storage", [f"serviceAccount:{ADDRESS}"])]
    assert [(b["role"], b["members"]) for b in state["projects"]["my-project-1"]["policy"]] == [
        ("projects/my-project-1/roles/warmspare_test_1_compute", [f"serviceAccount:{ADDRESS}"])]
    rule = state["compute firewall-rules"]["warmspare-test-1-ssh"]
    assert (rule["allowed"], rule["targetTags"]) == (["tcp:22"], ["warmspare-standby"])


def test_the_second_run_changes_nothing(google):
    google.set_up()
    before = google.state()
    run = google.set_up()
    assert (run.returncode, run.stderr) == (0, "")
    assert ends(run) == ["already"]
    assert google.changes() == []
    assert google.state() == before


def test_only_the_roles_of_the_template_in_the_one_account_are_let_in(google):
    google.set_up()
    state = google.state()
    provider = state["iam workload-identity-pools providers"]["aws"]
    roles = [f"warmspare-test-1-{function}" for function in FUNCTIONS]
    assert provider["aws"] == {"accountId": "123456789012"}
    listed = ", ".join(f"'{role}'" for role in roles)
    assert provider["attributeCondition"] == f"assertion.account == '123456789012' && attribute.aws_role in [{listed}]"
    pool = "principalSet://iam.googleapis.com/projects/4711/locations/global/workloadIdentityPools/warmspare-test-1"
    policy = state["iam service-accounts"][ADDRESS]["policy"]
    assert [(b["role"], b["members"]) for b in policy] == [
        ("roles/iam.workloadIdentityUser", [f"{pool}/attribute.aws_role/{role}"]) for role in roles]
    functions = t.of_type(t.read(), "AWS::Serverless::Function")
    named = {t.read()["Resources"][f["Role"]["Fn::GetAtt"][0]]["Properties"]["RoleName"]["Fn::Sub"] for f in functions.values()}
    assert {name.replace("${Deployment}", "test-1") for name in named} == set(roles)


def test_the_settings_it_prints_fit_the_template(google):
    printed = dict(re.findall(r"^  (\w+)=(\S+)  \(", google.set_up().stdout, re.MULTILINE))
    parameters, variables = t.read()["Parameters"], t.read()["Globals"]["Function"]["Environment"]["Variables"]
    assert sorted(printed) == ["Bucket", "Deployment", "GcpAudience", "GcpProject", "GcpServiceAccount"]
    for name, value in printed.items():
        assert re.match(parameters[name]["AllowedPattern"], value), name
        assert {"Ref": name} in variables.values()


def test_the_tag_is_the_one_that_standbys_carry():
    settings = (t.ROOT / "shared/platform/src/adapters/compute.rs").read_text()
    (tag,) = re.findall(r'network_tag: "([^"]+)"', settings)
    assert f"--target-tags={tag} " in SCRIPT.read_text().replace("\n", " ")


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(google):
    before = google.state()
    run = google.set_up("--dry-run")
    assert (run.returncode, run.stderr) == (0, "")
    assert ends(run) == ["would"]
    assert google.changes() == []
    after = google.state()
    assert {kind: things for kind, things in after.items() if things} == before
    would = [line.split(None, 1)[1] for line in run.stdout.splitlines() if line.startswith("would")]
    done = [line.split(None, 1)[1] for line in google.set_up().stdout.splitlines() if line.startswith("done")]
    assert would == done


@pytest.mark.parametrize(
    ("kind", "name", "key", "value", "says"),
    [
        ("iam roles", "warmspare_test_1_compute", "includedPermissions", ["compute.instances.setIamPolicy"], "set the permissions"),
        ("storage buckets", "my-associations", "public_access_prevention", "inherited", "private"),
        ("storage buckets", "my-associations", "soft_delete_policy", {"retentionDurationSeconds": "604800"}, "soft delete"),
        ("storage buckets", "my-associations", "lifecycle_config", {"rule": []}, "tombstones"),
        ("compute firewall-rules", "warmspare-test-1-ssh", "targetTags", ["everything"], "set firewall rule"),
        ("compute firewall-rules", "warmspare-test-1-ssh", "disabled", True, "set firewall rule"),
        ("iam workload-identity-pools providers", "aws", "attributeCondition", "true", "restrict provider"),
        ("iam service-accounts", ADDRESS, "policy", [], "may act as"),
    ],
)
def test_what_somebody_changed_is_put_right(google, kind, name, key, value, says):
    google.set_up()
    right = google.state()
    wrong = google.state()
    wrong[kind][name][key] = value
    google.save(wrong)
    run = google.set_up()
    assert run.returncode == 0, run.stderr
    done = [line for line in run.stdout.splitlines() if line.startswith("done")]
    assert done and all(says in line for line in done)
    assert google.state() == right


@pytest.mark.parametrize("missing", ARGUMENTS)
def test_a_missing_argument_is_a_usage_error(google, missing):
    run = google.set_up(without=[missing])
    assert run.returncode == 2
    assert f"missing {missing}" in run.stderr
    assert "usage:" in run.stderr
    assert (google.home / "calls").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--aws-account", "1234"], "--aws-account is '1234', but must be 12 digits"),
        (["--project", "My Project"], "--project is 'My Project'"),
        (["--deployment", "Prod"], "--deployment is 'Prod'"),
        (["--deployment", "default"], "'default'"),
        (["--bucket", "b;rm -rf /"], "--bucket is"),
        (["--colour"], "unknown argument: --colour"),
        (["--network"], "--network needs a value"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(google, arguments, says):
    run = google.set_up(*arguments)
    assert run.returncode == 2
    assert says in run.stderr
    assert (google.home / "calls").read_text() == ""


def test_all_problems_are_reported_together(google):
    run = google.set_up("--aws-account", "x", without=["--project", "--bucket"])
    assert all(f"google-setup.sh: {what}" in run.stderr for what in ("missing --project", "missing --bucket", "--aws-account is 'x'"))


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("service-accounts create", "make service account"),
        ("buckets create", "make bucket my-associations"),
        ("firewall-rules create", "make firewall rule"),
        ("create-aws", "make provider aws"),
        ("projects describe", "cannot look at project my-project-1"),
        ("roles describe", "cannot look at role"),
    ],
)
def test_a_failing_step_stops_and_the_next_run_goes_on(google, pattern, says):
    run = google.set_up(FAKE_GCLOUD_FAIL=pattern)
    assert run.returncode == 1
    assert re.search(f"FAILED: .*{says}", run.stderr)
    assert "PERMISSION_DENIED" in run.stderr and "run the same command again" in run.stderr
    assert "GcpAudience" not in run.stdout
    last = json.loads((google.home / "calls").read_text().splitlines()[-1])
    assert re.search(pattern, " ".join(last)), "something was done after the failure"
    assert google.set_up().returncode == 0


def test_a_denied_look_is_not_taken_for_absence(google):
    google.set_up()
    run = google.set_up(FAKE_GCLOUD_FAIL="firewall-rules describe")
    assert run.returncode == 1
    assert google.changes() == []


def test_a_bucket_of_somebody_else_is_not_used(google):
    google.save({**google.state(), "taken": ["my-associations"]})
    run = google.set_up()
    assert run.returncode == 1
    assert "make bucket my-associations" in run.stderr and "409" in run.stderr


def test_a_new_service_account_that_is_not_known_everywhere_is_waited_for(google):
    assert google.set_up(FAKE_GCLOUD_SLOW="1").returncode == 0
    assert google.state()["slow"] == 0


def test_waiting_for_a_service_account_ends(google):
    run = google.set_up(FAKE_GCLOUD_SLOW="9", WARMSPARE_SETUP_PATIENCE="0")
    assert run.returncode == 1
    assert "does not exist" in run.stderr


@pytest.mark.parametrize(("kind", "name"), [("iam workload-identity-pools", "warmspare-test-1"), ("iam workload-identity-pools providers", "aws")])
def test_a_name_that_google_still_keeps_is_explained(google, kind, name):
    google.set_up()
    state = google.state()
    state[kind][name]["state"] = "DELETED"
    google.save(state)
    run = google.set_up()
    assert run.returncode == 1
    assert "undelete" in run.stderr


def test_scripts_are_clean():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    scripts = [SCRIPT, t.ROOT / "tests" / "contract" / "setup.sh"]
    run = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")
