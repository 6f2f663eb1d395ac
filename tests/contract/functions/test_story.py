"""The failure story on the deployed binaries: driven through function URLs, queue events and the schedule's events, over Lambda's runtime API."""

import json
import time

import pytest

from conftest import until


def protected(stage):
    gpu = stage.cloud.rent()
    workspace = stage.workspace(gpu)
    for number in range(20):
        (workspace / f"result-{number}.txt").write_text(f"result {number}\n")
    status, answer = stage.hook("on_gpu_created", "/hooks/gpu-created", {"gpu_id": str(gpu)})
    assert status == 200 and answer["result"] == "accepted", answer
    stage.await_phase(gpu, "protected")
    return gpu


def test_the_whole_story(stage):
    gpu = protected(stage)
    schedule = stage.scheduler.get_schedule(GroupName=stage.name, Name="stage-beat")
    assert schedule["State"] == "ENABLED" and schedule["ScheduleExpression"] == "rate(1 minute)"
    assert schedule["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert schedule["Target"]["RetryPolicy"] == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}

    # The execution environments go away between two invocations, as they may.
    for function in stage.functions.values():
        function.kill()
    (stage.workspace(gpu) / "last-words.txt").write_text("written before the notice\n")
    # 6 s of real time at this scale: the shorter half of what was measured live (10.6 to 32 s), although every function starts cold.
    stage.cloud.sim("POST", f"/gpus/{gpu}/outbid", {"kill_after_seconds": 300})
    notice = {
        "event_id": "e-1",
        "notif_type": "outbid",
        "subject": f"Your Interruptible Instance #{gpu} Has Been Outbid",
        "message": f"Your interruptible instance {gpu} on machine 1 has been outbid and will be stopped.",
    }
    body = json.dumps(notice).encode()
    status, _ = stage.url("vast_webhook", "POST", "/webhooks/vast", stage.signed("x-vast", stage.webhook_secret, body), body)
    assert status == 204
    stage.await_phase(gpu, "holding")
    # What the agents said reaches the API with the heartbeat of a slot, and is believed there for 10 s.
    stage.beat(gpu)
    until("the API shows the recovery points", lambda: stage.view(gpu).get("recovery_points", 0) >= 1)

    replacement = stage.cloud.rent()
    status, answer = stage.api("POST", f"/v1/associations/{gpu}/restore", {"onto": str(replacement)})
    assert status == 200, answer
    stage.await_phase(gpu, "protected")
    assert (stage.workspace(replacement) / "last-words.txt").read_text() == "written before the notice\n"
    assert stage.view(gpu)["epoch"] == 2

    status, answer = stage.hook("on_gpu_destroyed", "/hooks/gpu-destroyed", {"gpu_id": str(replacement), "reason": "user_request"})
    assert status == 200, answer
    stage.await_phase(gpu, "released")
    left = stage.cloud.state()
    assert not [one for one in json.dumps(left).split('"') if one.startswith("ws-stage-")], left

    # Nothing is left to drive: the planner puts the schedule to rest, and queues nothing.
    assert stage.functions["planner"].invoke({}) == {"associations": 0, "messages": 0}
    assert stage.scheduler.get_schedule(GroupName=stage.name, Name="stage-beat")["State"] == "DISABLED"
    assert stage.functions["sweep"].invoke({}) == {"orphans": 0}
    # The next first association wakes it.
    again = stage.cloud.rent()
    assert stage.hook("on_gpu_created", "/hooks/gpu-created", {"gpu_id": str(again)})[0] == 200
    assert stage.scheduler.get_schedule(GroupName=stage.name, Name="stage-beat")["State"] == "ENABLED"
    assert not stage.failures, stage.failures


def test_the_planner_queues_the_slots_of_the_next_minute_with_their_delays(stage):
    gpu = protected(stage)
    stage.ticking.set()
    stage.mapping.join()
    stage.sqs.purge_queue(QueueUrl=stage.queue)
    before = time.time()
    assert stage.functions["planner"].invoke({}) == {"associations": 1, "messages": 2}
    slots = []

    def due():
        for one in stage.sqs.receive_message(QueueUrl=stage.queue, MaxNumberOfMessages=10).get("Messages", []):
            slot = json.loads(one["Body"])["tick"]["slot"]
            assert list(slot["associations"]) == [f"vast-{gpu}"] and slot["shard"] == 0
            slots.append((slot["slot"], time.time()))
            stage.sqs.delete_message(QueueUrl=stage.queue, ReceiptHandle=one["ReceiptHandle"])
        return len(slots) == 2

    until("both slots are due", due)
    for slot, came in slots:
        at = time.mktime(time.strptime(slot, "%Y-%m-%dT%H:%M:%S.000Z")) - time.timezone
        assert at % 30 == 0 and at // 60 == before // 60 + 1
        assert at - 1.5 <= came, "it came before its slot"


def test_what_nobody_signed_or_may_ask_for_is_refused_before_any_cloud_is_asked(stage):
    asked = len(stage.cloud.sim("GET", "/requests"))
    assert stage.hook("on_gpu_created", "/hooks/gpu-created", {"gpu_id": "7"}, secret="wrong")[0] == 401
    assert stage.url("api", "GET", "/v1/associations", {"authorization": "Bearer wrong"})[0] == 401
    assert stage.url("vast_webhook", "POST", "/webhooks/vast", {}, b"{}")[0] == 401
    assert stage.url("on_gpu_created", "POST", "/hooks/gpu-destroyed", {}, b"{}")[0] == 401  # the router has all hooks; none without a signature
    new = [one for one in stage.cloud.sim("GET", "/requests")[asked:] if "/storage/" not in one["path"] and one["path"] != "/token"]
    assert not new, new


def test_a_missing_secret_is_an_answer_that_says_whose_fault_it_is_and_the_next_call_works(stage):
    kept = stage.ssm.get_parameter(Name=stage.parameters + "vast_api_key", WithDecryption=True)["Parameter"]["Value"]
    stage.ssm.delete_parameter(Name=stage.parameters + "vast_api_key")
    status, answer = stage.api("GET", "/v1/associations")
    assert status == 503 and "not set up" in json.dumps(answer), answer
    assert "vast_api_key" in (stage.directory / "api.log").read_text()
    stage.ssm.put_parameter(Name=stage.parameters + "vast_api_key", Value=kept, Type="SecureString")
    assert stage.api("GET", "/v1/associations") == (200, [])
    log = (stage.directory / "api.log").read_text()
    assert kept not in log and stage.token not in log and stage.hook_secret not in log


def test_a_bucket_without_access_is_named_and_nothing_is_lost_or_ordered(stage):
    gpu = protected(stage)
    denied = {"error": {"code": 403, "message": "warmspare@sim does not have storage.objects.get access", "errors": [{"reason": "forbidden"}]}}
    stage.cloud.sim("POST", "/faults", {"path": "/storage/*", "times": 100_000, "action": {"body": {"code": 403, "body": denied}}})
    status, answer = stage.api("GET", f"/v1/associations/{gpu}")
    assert status == 503, (status, answer)
    asked = len(stage.cloud.sim("GET", "/requests"))
    with pytest.raises(RuntimeError):
        stage.functions["planner"].invoke({})
    with pytest.raises(RuntimeError):
        stage.functions["sweep"].invoke({})
    new = stage.cloud.sim("GET", "/requests")[asked:]
    assert len([one for one in new if "/storage/" in one["path"]]) <= 6, "it hammers a bucket that refuses"
    assert not [one for one in new if one["method"] in ("POST", "DELETE") and "/compute/" in one["path"]], new
    assert "storage.objects.get" in (stage.directory / "planner.log").read_text()
    status, report = stage.api("GET", "/v1/doctor")
    assert status == 200, report
    broken = {one["check"]: one["words"] for one in report["findings"] if one["verdict"] == "broken"}
    assert "storage.objects.get" in broken["store"], report
    stage.cloud.sim("DELETE", "/faults")
    stage.await_phase(gpu, "protected")
    # The refused beats' failures are the story itself.
    stage.failures.clear()


def test_a_tick_without_time_orders_nothing_and_comes_again(stage):
    gpu, tick = stage.cloud.rent(), stage.functions["sync_tick"]
    stage.workspace(gpu)
    tick.timeout = 0
    assert stage.hook("on_gpu_created", "/hooks/gpu-created", {"gpu_id": str(gpu)})[0] == 200
    until("ticks were refused", lambda: tick.log.exists() and tick.log.read_text().count("no time was left") >= 2)
    orders = [one for one in stage.cloud.sim("GET", "/requests") if one["method"] == "POST" and "/instances" in one["path"]]
    assert not orders, orders
    tick.timeout = 60
    stage.await_phase(gpu, "protected")


def test_stale_foreign_and_newer_messages_are_told_apart(stage):
    def outcome(body):
        message = {"MessageId": "m-1", "ReceiptHandle": "r", "Body": body if isinstance(body, str) else json.dumps(body)}
        from runtime import queue_event

        return stage.functions["sync_tick"].invoke(queue_event([message]))["batchItemFailures"]

    failed = [{"itemIdentifier": "m-1"}]
    stale = {"slot": {"shard": 0, "slot": "2026-11-23T13:45:30.000Z", "associations": {"vast-7": "1"}}}
    assert outcome({"schema": 1, "tick": stale}) == []
    assert outcome({"schema": 1, "tick": {"look": {"association": "vast-7"}}}) == [], "an unknown association is nothing to do"
    assert outcome({"schema": 2, "tick": {"look": {"association": "vast-7"}}}) == failed
    assert outcome("garbage") == failed


@pytest.mark.parametrize("who", ["on_gpu_created", "sweep"])
def test_the_schedule_is_mended_when_somebody_changed_it(stage, who):
    gpu = protected(stage)
    schedule = stage.scheduler.get_schedule(GroupName=stage.name, Name="stage-beat")
    stage.scheduler.update_schedule(
        GroupName=stage.name, Name="stage-beat", ScheduleExpression="rate(1 hour)", FlexibleTimeWindow={"Mode": "OFF"},
        Target=schedule["Target"], State="DISABLED",
    )  # fmt: skip
    if who == "sweep":
        stage.functions["sweep"].invoke({})
    else:
        stage.api("POST", f"/v1/associations/{gpu}/fail")
    mended = stage.scheduler.get_schedule(GroupName=stage.name, Name="stage-beat")
    assert (mended["State"], mended["ScheduleExpression"]) == ("ENABLED", "rate(1 minute)")
