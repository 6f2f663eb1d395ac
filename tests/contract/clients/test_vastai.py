"""Vast.ai's own command line drives simcloud.

Client: `vastai` 1.9.1 from PyPI (pinned in requirements-clients.txt), run as a program in a home of its own.
Commands: search offers (also -i and --new), create ssh-key, show ssh-keys, create instance, create instances, show instances
(table, --raw, -q, --label, --status, --order-by), show instance, ssh-url, scp-url, attach ssh, detach ssh, label instance,
change bid, logs, stop instance, start instance, reboot instance, stop instances, start instances, destroy instance,
destroy instances, show user.

The command line answers most HTTP errors with exit code 0, so nothing here looks at exit codes: what was printed and the
state afterwards are asserted. Facts about it: vast-api.md section 14 (2026-10).
"""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ssh, until

OFFER, BID, LOW_BID = 9000, 0.3, 0.01
MISSING = 12


class Vastai:
    """The program, pointed at one simulated cloud."""

    def __init__(self, cloud, home):
        self.cloud = cloud
        home.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "VAST_URL": cloud.url,
            "VAST_API_KEY": cloud.vast_api_key,
            "VASTAI_NO_UPDATE_CHECK": "1",
            "HTTPS_PROXY": os.environ["HTTPS_PROXY"],
            "NO_PROXY": "127.0.0.1",
            "COLUMNS": "300",
            "NO_COLOR": "1",
        }

    def run(self, *words, **environment):
        program = pathlib.Path(sys.executable).parent / "vastai"
        done = subprocess.run(
            [program, *map(str, words)],
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def said(self, *words):
        """What a command that succeeds prints."""
        done = self.run(*words)
        assert "Failed with error" not in done.stderr, done.stderr
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", done.stdout)

    def raw(self, *words):
        """The JSON a command that succeeds prints."""
        return json.loads(self.said(*words, "--raw"))

    def refusal(self, *words, **environment):
        """The status and the sentence of a command that the service refuses."""
        done = self.run(*words, "--raw", **environment)
        assert done.stdout.strip() == "", done.stdout
        refusal = json.loads(done.stderr)
        assert refusal["error"] is True
        return refusal["status_code"], refusal["msg"]

    def row(self, instance):
        return self.raw("show", "instance", instance)

    def wait_for(self, instance, **columns):
        """Waits until the row reads so; answers it."""

        def look():
            row = self.row(instance)
            return row if all(row[name] == value for name, value in columns.items()) else None

        return until(f"instance {instance} reads {columns}", look)

    def wait_for_ports(self, instance):
        return until(f"instance {instance} has ports", lambda: (row := self.row(instance))["ports"] and row)

    def rent(self, *words, offer=OFFER):
        image = ["--image", "ubuntu:22.04", "--disk", "20", "--ssh", "--direct"]
        return self.raw("create", "instance", offer, *image, *words)


@pytest.fixture
def vastai(cloud, tmp_path):
    return Vastai(cloud, tmp_path / "home")


def test_search_finds_what_was_asked_for_in_the_order_asked_for(vastai):
    query = "num_gpus=1 gpu_name=RTX_4090 geolocation=US reliability>0.98 disk_space>=60 inet_up>100"
    offers = vastai.raw("search", "offers", query, "-o", "dph_total", "--limit", "5", "--storage", "50")
    assert len(offers) == 5
    prices = [offer["dph_total"] for offer in offers]
    assert prices == sorted(prices)
    for offer in offers:
        assert offer["gpu_name"] == "RTX 4090"
        assert offer["geolocation"].endswith("US") and offer["reliability"] > 0.98
        # Storage is part of the total: $/GB/month over 720 h.
        assert offer["dph_total"] == pytest.approx(offer["dph_base"] + offer["storage_cost"] * 50 / 720)
        assert offer["verification"] == "verified" and not offer["is_bid"]
    (bid,) = vastai.raw("search", "offers", f"id={offers[0]['id']}", "-i")
    assert bid["is_bid"] and bid["dph_base"] == bid["min_bid"] < offers[0]["dph_base"]
    table = vastai.said("search", "offers", query, "--limit", "2")
    assert "RTX_4090" in table and str(offers[0]["machine_id"]) in table
    (new_form,) = vastai.raw("search", "offers", "--new", query, "-o", "dph_total", "--limit", "1")
    assert new_form["id"] == offers[0]["id"]


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("driver_version>=560.20.00", True),
        ("driver_version=560.35.03", True),
        ("driver_version>=560.40.00", False),
        ("cuda_vers>=12.4 gpu_ram>=24 cpu_ram>100 duration>3", True),
        ("gpu_max_power>100 gpu_max_temp>50 mobo_name!=none ubuntu_version!=18.04", True),
        ("geolocation in [US,CA] datacenter=true static_ip=true", True),
        ("geolocation in [ZZ]", False),
        ("verified=false", False),
    ],
)
def test_search_understands_every_kind_of_condition(vastai, query, fits):
    assert bool(vastai.raw("search", "offers", query, "--limit", "3")) == fits


def test_search_understands_every_field_that_the_client_offers(vastai):
    from vastai.api.query import offers_fields

    query = " ".join(f"{field}{'!=7.7.7' if field == 'driver_version' else '!=7777'}" for field in sorted(offers_fields))
    assert vastai.raw("search", "offers", "-n", query, "--limit", "3")


def test_a_wrong_key_is_refused_and_an_url_option_is_obeyed(vastai, cloud):
    status, msg = vastai.refusal("show", "instances", VAST_API_KEY="wrong")
    assert (status, msg) == (401, "Invalid user key")
    # The environment names a port on which nobody listens: only --url and --api-key can have led here.
    options = ["--url", cloud.url, "--api-key", cloud.vast_api_key]
    done = vastai.run("show", "instances", "--raw", *options, VAST_URL="http://127.0.0.1:9", VAST_API_KEY="wrong")
    assert json.loads(done.stdout) == []
    user = vastai.raw("show", "user")
    assert user["credit"] == 100.0 and "api_key" not in user


def test_a_rented_gpu_runs_and_answers_ssh_where_ssh_url_says(vastai, cloud, key_pair):
    private, public = key_pair
    assert "ssh-key created" in vastai.said("create", "ssh-key", public)
    (key,) = vastai.raw("show", "ssh-keys")
    assert key["key"] == public and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", key["created_at"])

    options = ["--bid_price", BID, "--label", "gpu-a", "--onstart-cmd", "echo hi", "--env", "-e A=b -p 8081:8081"]
    made = vastai.rent(*options)
    assert made["success"] is True and made["instance_api_key"]
    gpu = made["new_contract"]
    born = vastai.row(gpu)
    assert born["actual_status"] in (None, "loading") and born["ports"] == {}
    row = vastai.wait_for_ports(gpu)
    assert (row["actual_status"], row["intended_status"], row["cur_state"]) == ("running",) * 3
    assert row["is_bid"] and row["dph_base"] == BID and row["disk_space"] == 20.0
    assert row["image_runtype"] == "ssh_direc ssh_proxy" and row["label"] == "gpu-a" and row["onstart"] == "echo hi"
    assert row["extra_env"] == {"A": "b", "-p 8081:8081": "1"}
    assert vastai.raw("search", "offers", f"id={OFFER}") == [], "a rented offer is gone"

    port = row["ports"]["22/tcp"][0]["HostPort"]
    assert isinstance(port, str)
    where = f"root@{row['public_ipaddr'].strip()}:{port}"
    assert vastai.said("ssh-url", gpu).strip() == f"ssh://{where}"
    assert vastai.said("scp-url", gpu).strip() == f"scp://{where}"
    host = row["public_ipaddr"].strip()
    assert ssh(cloud.login_user, host, port, private, "echo", "here") == "here"
    assert cloud.machines()[str(gpu)]["is_on"]


def test_both_tables_show_a_gpu_and_lists_are_filtered_and_ordered(vastai):
    first = vastai.rent("--bid_price", LOW_BID, "--label", "gpu-a")["new_contract"]
    second = vastai.rent("--bid_price", BID, "--label", "gpu-b", offer=OFFER + 1)["new_contract"]
    vastai.wait_for(second, actual_status="running")

    table = vastai.said("show", "instances")
    for text in (str(first), str(second), "gpu-a", "gpu-b", "1x RTX 4090", "ubuntu:22.04", "Total: 2 instances"):
        assert text in table, text
    single = vastai.said("show", "instance", second)
    assert str(second) in single and "running" in single and "RTX_4090" in single

    ids = lambda *words: [row["id"] for row in vastai.raw("show", "instances", *words)]
    assert ids() == [first, second]
    assert ids("--order-by", "id desc") == [second, first]
    assert ids("--label", "gpu-a") == [first] and ids("--status", "running") == [second]
    assert ids("--status", "loading", "--label", "gpu-b") == []
    status, msg = vastai.refusal("show", "instances", "--order-by", "dph_total")
    assert status == 400 and "dph_total" in msg
    assert vastai.said("show", "instances", "-q").split() == [str(first), str(second)]


def test_a_list_of_several_pages_is_read_to_its_end(vastai, cloud):
    offers = [9000 + slice_ * 10 + kind for slice_ in range(9) for kind in range(3)]
    # Bids below the floor: contracts that exist and are stopped.
    vastai.said("create", "instances", *offers, "--image", "x", "--bid_price", LOW_BID)
    rows = vastai.raw("show", "instances")
    assert len(rows) == len({row["id"] for row in rows}) == len(offers) == 27
    pages = [one for one in cloud.requests() if one["path"].rstrip("/") == "/api/v1/instances"]
    assert len(pages) == 2 and "after_token" in pages[1]["query"] and "after_token" not in pages[0]["query"]
    assert len(vastai.said("show", "instances", "-q").split()) == 27


def test_a_bid_below_the_floor_says_no_and_leaves_a_contract_all_the_same(vastai, cloud):
    made = vastai.rent("--bid_price", LOW_BID)
    assert made["success"] is False
    row = vastai.row(made["new_contract"])
    assert (row["intended_status"], row["cur_state"]) == ("stopped", "stopped")
    assert cloud.machines()[str(made["new_contract"])]["usd_per_hour"] > 0, "its storage is billed"
    status, msg = vastai.refusal("create", "instance", OFFER, "--image", "x", "--bid_price", LOW_BID, "--cancel-unavail")
    assert (status, msg) == (410, f"Instance type {OFFER} is no longer available.")
    assert vastai.refusal("create", "instance", 77, "--image", "x") == (404, "No ask by id 77 is available.")
    assert vastai.refusal("create", "instance", OFFER, "--image", "x", "--bid_price", "500")[0] == 400
    assert len(cloud.machines()) == 1


def test_a_raised_bid_starts_what_a_low_one_left_stopped(vastai):
    gpu = vastai.rent("--bid_price", LOW_BID)["new_contract"]
    assert vastai.said("start", "instance", gpu).startswith("Required resources are currently unavailable")
    assert vastai.said("change", "bid", gpu, "--price", "0.5").strip() == "Per gpu bid price changed"
    row = vastai.wait_for(gpu, actual_status="running")
    assert row["dph_base"] == 0.5
    assert vastai.refusal("change", "bid", gpu, "--price", "33")[0] == 400
    on_demand = vastai.rent(offer=OFFER + 1)["new_contract"]
    assert not vastai.row(on_demand)["is_bid"]
    refused = vastai.refusal("change", "bid", on_demand, "--price", "0.5")
    assert refused == (400, "Can't change price of on-demand contract.")


def test_an_attached_key_opens_the_gpu_and_a_detached_one_does_not(vastai, cloud, key_pair):
    private, public = key_pair
    gpu = vastai.rent("--bid_price", BID)["new_contract"]
    row = vastai.wait_for_ports(gpu)
    host, port = row["public_ipaddr"].strip(), row["ports"]["22/tcp"][0]["HostPort"]
    log_in = lambda: ssh(cloud.login_user, host, port, private, "echo", "here")
    assert log_in() == ""
    answer = vastai.said("attach", "ssh", gpu, public)
    assert "'success': True" in answer and "SSH key added to instance." in answer
    key = json.loads(re.search(r"'key': '(\{.*?\})'", answer).group(1))
    assert key["public_key"] == public
    until("the key works", lambda: log_in() == "here")
    again = vastai.said("attach", "ssh", gpu, public)
    assert "'success': False" in again and "already associated" in again
    assert "SSH key removed" in vastai.said("detach", "ssh", gpu, key["id"])
    assert log_in() == ""
    assert vastai.refusal("detach", "ssh", gpu, key["id"])[0] == 404


def test_label_stop_start_and_reboot_do_what_they_say(vastai, cloud):
    gpu = vastai.rent("--bid_price", BID, "--label", "before")["new_contract"]
    vastai.wait_for_ports(gpu)
    assert vastai.said("label", "instance", gpu, "after").strip() == f"label for {gpu} set to after."
    assert vastai.row(gpu)["label"] == "after"
    too_long = vastai.refusal("label", "instance", gpu, "x" * 1025)
    assert too_long == (400, "label_too_long")

    assert vastai.said("stop", "instance", gpu).strip() == f"stopping instance {gpu}."
    assert vastai.row(gpu)["intended_status"] == "stopped"
    row = vastai.wait_for(gpu, actual_status="exited")
    assert row["ports"] == {} and (row["cur_state"], row["next_state"]) == ("stopped", "stopped")
    assert not cloud.machines()[str(gpu)]["is_on"]
    # Without a direct port the proxy's address is shown.
    assert vastai.said("ssh-url", gpu).strip() == f"ssh://root@{row['ssh_host']}:{row['ssh_port']}"

    assert vastai.said("start", "instance", gpu).strip() == f"starting instance {gpu}."
    vastai.wait_for(gpu, actual_status="running", intended_status="running")
    assert vastai.said("reboot", "instance", gpu).strip() == f"Rebooting instance {gpu}."
    vastai.wait_for_ports(gpu)
    assert cloud.machines()[str(gpu)]["is_on"]


def test_a_start_without_a_free_gpu_is_refused_with_status_200(vastai, cloud):
    gpu = vastai.rent("--bid_price", BID)["new_contract"]
    vastai.wait_for_ports(gpu)
    cloud.control("POST", f"gpus/{gpu}/outbid", {"kill_after_seconds": 10.6})
    row = vastai.wait_for(gpu, actual_status="exited")
    assert row["intended_status"] == "stopped" and row["is_bid"] and row["status_msg"].startswith("success, running")
    refused = vastai.said("start", "instance", gpu).strip()
    assert refused == "Required resources are currently unavailable, state change queued."
    vastai.said("reboot", "instance", gpu)
    vastai.wait_for(gpu, actual_status="exited", intended_status="stopped")
    cloud.control("POST", f"gpus/{gpu}/outbid-clears", {})
    vastai.wait_for(gpu, actual_status="running")


def test_logs_are_what_the_container_printed(vastai, cloud):
    gpu = vastai.rent("--bid_price", BID)["new_contract"]
    vastai.wait_for_ports(gpu)
    script = "for i in 1 2 3 4; do echo line $i; done"
    cloud.control("POST", f"gpus/{gpu}/exec", {"command": ["sh", "-c", script]})
    until("the last line is logged", lambda: "line 4" in vastai.said("logs", gpu))
    assert vastai.said("logs", gpu, "--tail", "2").split("\n")[:2] == ["line 3", "line 4"]
    assert vastai.said("logs", gpu, "--filter", "line 2").strip() == "line 2"
    assert vastai.refusal("logs", MISSING) == (404, "Invalid instance id.")


def test_destroy_removes_a_gpu_for_good_and_asks_first(vastai, cloud):
    gpu = vastai.rent("--bid_price", BID)["new_contract"]
    assert "Aborted" in vastai.said("destroy", "instance", gpu)
    assert str(gpu) in cloud.machines(), "without -y nothing is destroyed"
    assert vastai.said("destroy", "instance", gpu, "-y").strip() == f"destroying instance {gpu}."
    until("the machine is gone", lambda: str(gpu) not in cloud.machines())
    # Gone is 200 with null for this endpoint, and 404 for every other one.
    assert vastai.raw("show", "instance", gpu) == {"instances": None}
    assert "not found or no longer exists" in vastai.run("show", "instance", gpu).stderr
    assert vastai.raw("show", "instances") == []
    (destroyed,) = [one for one in cloud.requests() if one["method"] == "DELETE"]
    assert destroyed["body"] == {}, "the client sends a body with DELETE"


@pytest.mark.parametrize(
    "words",
    [
        ("stop", "instance", MISSING),
        ("start", "instance", MISSING),
        ("label", "instance", MISSING, "x"),
        ("change", "bid", MISSING, "--price", "0.3"),
        ("destroy", "instance", MISSING, "-y"),
        ("attach", "ssh", MISSING, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJZ2rP1o6Yx4mXm0Yh1Vn1q8kZxj8lJXg8k8Qm9q7mxx"),
    ],
)
def test_an_unknown_instance_is_404(vastai, words):
    assert vastai.refusal(*words) == (404, f"Instance {MISSING} not found.")


def test_several_instances_are_stopped_started_and_destroyed_at_once(vastai, cloud):
    vastai.said("create", "instances", OFFER, OFFER + 1, "--image", "x", "--ssh", "--bid_price", BID)
    gpus = [row["id"] for row in vastai.raw("show", "instances")]
    assert len(gpus) == 2
    for gpu in gpus:
        vastai.wait_for(gpu, actual_status="running")
    assert vastai.said("stop", "instances", *gpus).strip() == f"stopping instance {gpus}."
    for gpu in gpus:
        vastai.wait_for(gpu, actual_status="exited")
    assert vastai.said("start", "instances", *gpus).strip() == f"starting instance {gpus}."
    for gpu in gpus:
        vastai.wait_for(gpu, actual_status="running")
    assert vastai.said("destroy", "instances", *gpus, "-y").strip() == f"destroying instance {gpus}."
    until("both machines are gone", lambda: cloud.machines() == {})


def test_the_client_asks_for_nothing_that_simcloud_does_not_serve(vastai, cloud):
    gpu = vastai.rent("--bid_price", BID)["new_contract"]
    vastai.said("show", "instances")
    vastai.said("show", "instance", gpu)
    vastai.said("show", "user")
    vastai.said("ssh-url", gpu)
    vastai.said("destroy", "instance", gpu, "-y")
    asked = {(one["method"], re.sub(r"\d{4,}", "ID", one["path"]), one["status"]) for one in cloud.requests()}
    assert asked == {
        ("GET", "/api/v0/gpu_names/unique/", 200),
        ("GET", "/api/v0/users/current", 200),
        ("PUT", "/api/v0/asks/ID/", 200),
        ("GET", "/api/v0/instances/filters/", 200),
        ("GET", "/api/v1/instances/", 200),
        ("GET", "/api/v0/instances/ID/", 200),
        ("DELETE", "/api/v0/instances/ID/", 200),
    }
