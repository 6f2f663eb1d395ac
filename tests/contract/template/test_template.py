"""What linters miss in infra/template.yaml. Each check is shown to bite on a template that was broken on purpose."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import translated as t  # noqa: E402

WITH_URL = ["Api", "MarkGpuFailed", "OnGpuCreated", "OnGpuDestroyed", "VastWebhook"]
FUNCTIONS = sorted([*WITH_URL, "Planner", "SyncTick", "Sweep"])
BEAT_CONTROLLERS = ["Api", "OnGpuCreated", "Planner", "Sweep"]

# The only resources that end in a wildcard or stand for more than one thing, and why.
WIDE = {
    "parameter/warmspare/${Deployment}/*": "every secret of this deployment, and nothing else",
    "key/*": "secrets may be stored under any key of the account; narrowed to these parameters and to SSM by conditions",
}


@pytest.fixture(scope="session")
def source():
    return t.read()


@pytest.fixture(scope="session")
def template(source):
    return t.translate(source)


# --- The checks: each returns the problems it found.


def schedule_problem(expression):
    """What EventBridge Scheduler would refuse, or None. Source: AWS docs and the service model of botocore 1.44.5."""
    if not isinstance(expression, str) or len(expression) > 256:
        return "not a text of at most 256 characters"
    if rate := re.fullmatch(r"rate\(([0-9]+) (minutes?|hours?|days?)\)", expression):
        count, unit = int(rate[1]), rate[2]
        if count == 0:
            return "a rate starts at 1"
        return "singular for one, plural for more" if (count == 1) == unit.endswith("s") else None
    if expression.startswith("rate("):
        return "a rate counts minutes, hours or days"
    if re.fullmatch(r"at\(\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d\)", expression):
        return None
    if cron := re.fullmatch(r"cron\(([^()]*)\)", expression):
        fields = cron[1].split(" ")
        if len(fields) != 6 or not all(re.fullmatch(r"[0-9A-Z*?,/#L\-]+", field) for field in fields):
            return "cron takes six fields"
        return None if "?" in (fields[2], fields[4]) else "one of the two day fields must be ?"
    return "neither rate, at nor cron"


def schedule_problems(template):
    problems = []
    for name, schedule in t.of_type(template, "AWS::Scheduler::Schedule").items():
        if problem := schedule_problem(schedule["ScheduleExpression"]):
            problems.append(f"{name}: {problem}")
        if schedule["FlexibleTimeWindow"]["Mode"] not in ("OFF", "FLEXIBLE"):
            problems.append(f"{name}: FlexibleTimeWindow.Mode is {schedule['FlexibleTimeWindow']['Mode']!r}")
        if schedule["Target"].get("RetryPolicy") != {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}:
            problems.append(f"{name}: late events pile up")
        if "DeadLetterConfig" not in schedule["Target"]:
            problems.append(f"{name}: no dead letters")
    return problems


def queue_problems(template):
    problems = []
    queues = t.of_type(template, "AWS::SQS::Queue")
    for name, mapping in t.of_type(template, "AWS::Lambda::EventSourceMapping").items():
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            problems.append(f"{name}: one failure repeats the whole batch")
        if "MaximumConcurrency" not in mapping.get("ScalingConfig", {}):
            problems.append(f"{name}: no MaximumConcurrency, so that polling runs into the reserved concurrency")
        queue = queues[mapping["EventSourceArn"]["Fn::GetAtt"][0]]
        timeout = template["Resources"][mapping["FunctionName"]["Ref"]]["Properties"]["Timeout"]
        visible_again, redrive = queue["VisibilityTimeout"], queue.get("RedrivePolicy", {})
        if visible_again < timeout:
            problems.append(f"{name}: visibility timeout {visible_again} s is shorter than the function's {timeout} s")
        if redrive.get("maxReceiveCount") not in (1, 2):
            problems.append(f"{name}: a late tick is worthless, so maxReceiveCount must be 1 or 2")
        elif queue["MessageRetentionPeriod"] < 119 + redrive["maxReceiveCount"] * visible_again:
            problems.append(f"{name}: messages expire before they can become dead letters")
    return problems


def url_problems(template):
    problems = []
    permissions = list(t.of_type(template, "AWS::Lambda::Permission").values())
    for name, url in t.of_type(template, "AWS::Lambda::Url").items():
        to_all = [p for p in permissions if p["FunctionName"] == url["TargetFunctionArn"] and p["Principal"] == "*"]
        if not any(p["Action"] == "lambda:InvokeFunctionUrl" and p.get("FunctionUrlAuthType") == "NONE" for p in to_all):
            problems.append(f"{name}: nobody may call the URL")
        if not any(p["Action"] == "lambda:InvokeFunction" and p.get("InvokedViaFunctionUrl") is True for p in to_all):
            problems.append(f"{name}: nobody may invoke the function through the URL")
        problems += [f"{name}: invocable by anybody around the URL" for p in to_all
                     if p["Action"] == "lambda:InvokeFunction" and p.get("InvokedViaFunctionUrl") is not True]
    return problems


def function_problems(template):
    problems = []
    groups = t.of_type(template, "AWS::Logs::LogGroup")
    for name, function in t.of_type(template, "AWS::Lambda::Function").items():
        if "ReservedConcurrentExecutions" not in function:
            problems.append(f"{name}: no reserved concurrency")
        group = groups.get(function.get("LoggingConfig", {}).get("LogGroup", {}).get("Ref"))
        if group is None or "RetentionInDays" not in group:
            problems.append(f"{name}: no log group of its own with a retention")
        elif group["LogGroupName"]["Fn::Sub"] != f"/aws/lambda/{function['FunctionName']['Fn::Sub']}":
            problems.append(f"{name}: logs go to {group['LogGroupName']}")
        for variable, value in function["Environment"]["Variables"].items():
            secret_name = re.search(r"SECRET|TOKEN|PASSWORD|PRIVATE|CREDENTIAL|_KEY$|API_KEY", variable)
            secret_value = "resolve:" in json.dumps(value)
            if secret_name or secret_value or not re.fullmatch(r"WARMSPARE_[A-Z_]+|RUST_LOG", variable):
                problems.append(f"{name}: {variable} is not a setting")
    return problems


def statements(template):
    for kind in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
        for name, resource in t.of_type(template, kind).items():
            documents = [policy["PolicyDocument"] for policy in resource.get("Policies", [])]
            documents += [resource["PolicyDocument"]] if "PolicyDocument" in resource else []
            for document in documents:
                for statement in document["Statement"]:
                    yield name, statement


def listed(value):
    return value if isinstance(value, list) else [value]


def permission_problems(template):
    problems = []
    for name, statement in statements(template):
        if statement["Effect"] != "Allow" or "NotAction" in statement or "NotResource" in statement:
            problems.append(f"{name}: only plain Allow statements are understood here")
            continue
        problems += [f"{name}: action {action}" for action in listed(statement["Action"]) if "*" in action]
        for resource in listed(statement["Resource"]):
            text = resource.get("Fn::Sub", "") if isinstance(resource, dict) else resource
            if "*" in text and not any(text.endswith(f":{ending}") for ending in WIDE):
                problems.append(f"{name}: resource {text}")
        if "iam:PassRole" in listed(statement["Action"]) and statement.get("Condition") != {
            "StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}
        }:
            problems.append(f"{name}: roles may be passed to any service")
        if "kms:Decrypt" in listed(statement["Action"]) and (
            "kms:ViaService" not in statement.get("Condition", {}).get("StringEquals", {})
        ):
            problems.append(f"{name}: decrypts outside SSM")
    return problems


def trust_problems(template):
    problems = []
    for name, role in t.of_type(template, "AWS::IAM::Role").items():
        for statement in role["AssumeRolePolicyDocument"]["Statement"]:
            service, condition = statement["Principal"].get("Service"), statement.get("Condition", {})
            if service == "scheduler.amazonaws.com":
                if condition.get("StringEquals", {}).get("aws:SourceAccount") != {"Ref": "AWS::AccountId"}:
                    problems.append(f"{name}: schedules of other accounts could use it")
                if condition.get("ArnEquals", {}).get("aws:SourceArn") != {"Fn::GetAtt": ["ScheduleGroup", "Arn"]}:
                    problems.append(f"{name}: schedules of other groups could use it")
            elif service != "lambda.amazonaws.com":
                problems.append(f"{name}: trusted by {statement['Principal']}")
    return problems


def alarm_problems(template):
    problems = []
    alarms = list(t.of_type(template, "AWS::CloudWatch::Alarm").values())
    watched = {(a["MetricName"], json.dumps(a["Dimensions"][0]["Value"], sort_keys=True)) for a in alarms}
    for function in t.of_type(template, "AWS::Lambda::Function"):
        for metric in ("Errors", "Throttles"):
            if (metric, json.dumps({"Ref": function})) not in watched:
                problems.append(f"{function}: nobody hears of {metric}")
    for queue in ("TickDeadLetters", "ScheduleDeadLetters"):
        if ("ApproximateNumberOfMessagesVisible", json.dumps({"Fn::GetAtt": [queue, "QueueName"]})) not in watched:
            problems.append(f"{queue}: nobody hears of dead letters")
    return problems


CHECKS = [schedule_problems, queue_problems, url_problems, function_problems, permission_problems, trust_problems, alarm_problems]


# --- The template passes.


def test_the_linter_finds_nothing_in_what_cloudformation_receives(template, tmp_path):
    path = tmp_path / "translated.json"
    path.write_text(json.dumps(template))
    for file in (path, t.TEMPLATE):
        run = subprocess.run(
            [Path(sys.executable).parent / "cfn-lint", "--regions", "us-east-1", "eu-central-1", "--template", file],
            capture_output=True, text=True, check=False)
        assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_wrong(template, check):
    assert check(template) == []


def test_no_resource_waits_for_itself(template):
    assert t.cycle(template) is None


def test_exactly_the_functions_of_the_design_are_deployed(template):
    functions = t.of_type(template, "AWS::Lambda::Function")
    assert sorted(functions) == FUNCTIONS
    assert {f["Runtime"] for f in functions.values()} == {"provided.al2023"}
    assert {f["Handler"] for f in functions.values()} == {"bootstrap"}
    urls = [url["TargetFunctionArn"]["Ref"] for url in t.of_type(template, "AWS::Lambda::Url").values()]
    assert sorted(urls) == WITH_URL


def test_code_comes_from_where_cargo_lambda_puts_it(source):
    for name, resource in source["Resources"].items():
        if resource["Type"] == "AWS::Serverless::Function":
            snake = re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
            assert resource["Properties"]["CodeUri"] == f"../target/lambda/{snake}/bootstrap.zip"
            assert resource["Properties"]["FunctionName"] == {"Fn::Sub": f"warmspare-${{Deployment}}-{snake}"}


def test_every_function_has_a_role_of_its_own_and_only_what_it_needs(template):
    roles, policies = t.of_type(template, "AWS::IAM::Role"), {}
    for name, function in t.of_type(template, "AWS::Lambda::Function").items():
        assert function["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
        policies[name] = sorted(policy["Ref"] for policy in roles[f"{name}Role"]["ManagedPolicyArns"])
        (logs,) = roles[f"{name}Role"]["Policies"]
        assert [s["Resource"] for s in logs["PolicyDocument"]["Statement"]] == [{"Fn::GetAtt": [f"{name}Logs", "Arn"]}]
    assert policies == {
        name: sorted(
            ["ReadParametersPolicy"]
            + (["TakeTicksPolicy"] if name == "SyncTick" else ["NudgePolicy"])
            + (["ControlBeatPolicy"] if name in BEAT_CONTROLLERS else [])
        )
        for name in FUNCTIONS
    }


def test_settings_reach_only_the_functions_that_use_them(template):
    functions = t.of_type(template, "AWS::Lambda::Function")
    everywhere = {"RUST_LOG", "WARMSPARE_DEPLOYMENT", "WARMSPARE_GCP_PROJECT", "WARMSPARE_BUCKET", "WARMSPARE_GCP_AUDIENCE",
                  "WARMSPARE_GCP_SERVICE_ACCOUNT", "WARMSPARE_PARAMETERS"}
    beat = {"WARMSPARE_BEAT_SCHEDULE_GROUP", "WARMSPARE_BEAT_SCHEDULE_ROLE_ARN", "WARMSPARE_BEAT_DEAD_LETTERS_ARN",
            "WARMSPARE_PLANNER_ARN"}
    for name, function in functions.items():
        expected = set(everywhere)
        expected |= set() if name == "SyncTick" else {"WARMSPARE_TICK_QUEUE_URL"}
        expected |= beat if name in BEAT_CONTROLLERS else set()
        expected |= {"WARMSPARE_SHARDS"} if name == "Planner" else set()
        assert set(function["Environment"]["Variables"]) == expected, name


def test_the_arn_that_code_gets_for_the_planner_is_the_planners(template):
    arn = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:"
    name = template["Resources"]["Planner"]["Properties"]["FunctionName"]["Fn::Sub"]
    assert template["Resources"]["Sweep"]["Properties"]["Environment"]["Variables"]["WARMSPARE_PLANNER_ARN"] == {"Fn::Sub": arn + name}
    allowed = [s["Resource"] for owner, s in statements(template) if owner == "BeatScheduleRole" and s["Action"] == "lambda:InvokeFunction"]
    assert allowed == [{"Fn::Sub": arn + name}]


def test_names_fit_with_the_longest_deployment(template):
    limits = {"RoleName": 64, "FunctionName": 64, "QueueName": 80, "Name": 64}
    seen = 0
    for resource in template["Resources"].values():
        for key, limit in limits.items():
            value = resource.get("Properties", {}).get(key)
            if isinstance(value, dict) and "Fn::Sub" in value:
                assert len(value["Fn::Sub"].replace("${Deployment}", "d" * 16)) <= limit
                seen += 1
    assert seen > 20


# --- The checks bite.


def mutate(template, path, value):
    broken = copy.deepcopy(template)
    *parents, last = path
    place = broken["Resources"]
    for step in parents:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return broken


SWEEP = ("SweepSchedule", "Properties")
MAPPING = ("SyncTickTicks", "Properties")
ROLE = ("BeatScheduleRole", "Properties", "AssumeRolePolicyDocument", "Statement", 0, "Condition")
BEAT = ("ControlBeatPolicy", "Properties", "PolicyDocument", "Statement")
KEYS = ("ReadParametersPolicy", "Properties", "PolicyDocument", "Statement", 1)


@pytest.mark.parametrize(
    ("check", "path", "value"),
    [
        (schedule_problems, (*SWEEP, "ScheduleExpression"), "rate(30 seconds)"),
        (schedule_problems, (*SWEEP, "ScheduleExpression"), "rate(1 minutes)"),
        (schedule_problems, (*SWEEP, "ScheduleExpression"), "banana"),
        (schedule_problems, (*SWEEP, "FlexibleTimeWindow", "Mode"), False),
        (schedule_problems, (*SWEEP, "Target", "RetryPolicy"), None),
        (schedule_problems, (*SWEEP, "Target", "DeadLetterConfig"), None),
        (queue_problems, (*MAPPING, "FunctionResponseTypes"), None),
        (queue_problems, (*MAPPING, "ScalingConfig"), None),
        (queue_problems, ("TickQueue", "Properties", "VisibilityTimeout"), 59),
        (queue_problems, ("TickQueue", "Properties", "MessageRetentionPeriod"), 300),
        (queue_problems, ("TickQueue", "Properties", "RedrivePolicy"), {"maxReceiveCount": 5}),
        (url_problems, ("ApiUrlPublicPermissions",), None),
        (url_problems, ("ApiURLInvokeAllowPublicAccess",), None),
        (url_problems, ("ApiURLInvokeAllowPublicAccess", "Properties", "InvokedViaFunctionUrl"), None),
        (function_problems, ("Api", "Properties", "ReservedConcurrentExecutions"), None),
        (function_problems, ("ApiLogs", "Properties", "RetentionInDays"), None),
        (function_problems, ("Api", "Properties", "LoggingConfig"), None),
        (function_problems, ("Api", "Properties", "Environment", "Variables", "WARMSPARE_VAST_API_KEY"), "x"),
        (function_problems, ("Api", "Properties", "Environment", "Variables", "WARMSPARE_X"), "{{resolve:ssm-secure:/warmspare/x}}"),
        (permission_problems, (*BEAT, 0, "Action"), "scheduler:*"),
        (permission_problems, (*BEAT, 0, "Resource"), "*"),
        (permission_problems, (*BEAT, 1, "Condition"), None),
        (permission_problems, (*KEYS, "Condition"), None),
        (permission_problems, (*KEYS, "Resource"), {"Fn::Sub": "arn:${AWS::Partition}:kms:*"}),
        (trust_problems, (*ROLE, "StringEquals"), None),
        (trust_problems, (*ROLE, "ArnEquals"), None),
        (alarm_problems, ("SweepErrorsAlarm",), None),
        (alarm_problems, ("TickDeadLettersAlarm",), None),
    ],
)
def test_a_broken_template_is_noticed(template, check, path, value):
    assert check(mutate(template, path, value)) != []


def test_an_unquoted_off_is_noticed():
    text = t.TEMPLATE.read_text()
    assert 'Mode: "OFF"' in text
    assert schedule_problems(t.translate(t.read(text.replace('Mode: "OFF"', "Mode: OFF")))) != []


def test_a_circle_is_noticed(source):
    broken = copy.deepcopy(source)
    policies = broken["Resources"]["BeatScheduleRole"]["Properties"]["Policies"]
    policies[0]["PolicyDocument"]["Statement"][0]["Resource"] = {"Fn::GetAtt": ["Planner", "Arn"]}
    assert "Planner" in t.cycle(t.translate(broken))


def test_two_resources_that_would_get_one_name_are_noticed(source):
    broken = copy.deepcopy(source)
    broken["Resources"]["ApiUrl"] = {"Type": "AWS::SQS::Queue"}
    with pytest.raises(Exception, match="ApiUrl"):
        t.translate(broken)


@pytest.mark.parametrize("expression", ["rate(1 minute)", "rate(5 minutes)", "at(2026-11-23T13:45:00)", "cron(0 12 * * ? *)"])
def test_valid_schedules_are_taken(expression):
    assert schedule_problem(expression) is None


@pytest.mark.parametrize(
    "expression",
    ["rate(30 seconds)", "rate(0 minutes)", "rate(1 minutes)", "rate(2 minute)", "rate(1.5 hours)", "at(2026-13-01T00:00:00)",
     "at(2026-11-23)", "cron(* * * * *)", "cron(0 12 * * * *)", "every minute", ""],
)
def test_invalid_schedules_are_refused(expression):
    assert schedule_problem(expression)
