"""Google's own Compute Engine client drives simcloud.

Client: `google-cloud-compute` 1.57.0 from PyPI with `google-auth` 2.62.2 (pinned in requirements-clients.txt), REST transport,
`client_options.api_endpoint` with its `http://` (a bare host and port would be dialled as https).
Calls: the token exchange; disks insert, get, list, aggregatedList, resize, setLabels, delete; instances insert, get, list, aggregatedList, start,
stop, reset, delete, setLabels, setMetadata, setScheduling, setMachineType, setDiskAutoDelete, attachDisk, detachDisk,
simulateMaintenanceEvent, getGuestAttributes, getSerialPortOutput; zoneOperations get, list, wait; zones get and list,
regions get, machineTypes get. Errors as the client raises them: NotFound, Conflict, BadRequest, Forbidden,
PreconditionFailed, ServiceUnavailable, and what AnonymousCredentials end in.

`insert()`, `delete()` and their like answer an ExtendedOperation that would poll the real service with a client of its own, so
`*_unary` calls are used, and one test hands the transport an operations client that points here.
"""

import json
import uuid

import google.auth.jwt
import google.auth.transport.requests
import pytest
from conftest import ssh, until
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import InvalidOperation
from google.cloud import compute_v1 as compute
from google.oauth2 import service_account
from google.oauth2.credentials import Credentials

ZONE = "us-central1-a"
SCOPE = "https://www.googleapis.com/auth/compute"
EXHAUSTED = "ZONE_RESOURCE_POOL_EXHAUSTED"


class Google:
    """The client library, pointed at one simulated cloud."""

    def __init__(self, cloud):
        self.cloud = cloud
        self.project = cloud.project
        self.where = {"project": cloud.project, "zone": ZONE}
        account = service_account.Credentials.from_service_account_file(cloud.key_file, scopes=[SCOPE])
        account.refresh(google.auth.transport.requests.Request())
        # Only its token: with the account itself the library looks up allowed locations at Google, in the background.
        self.credentials = Credentials(account.token)
        self.disks = self.client(compute.DisksClient)
        self.instances = self.client(compute.InstancesClient)
        self.operations = self.client(compute.ZoneOperationsClient)

    def client(self, kind, credentials=None):
        return kind(
            credentials=credentials or self.credentials,
            transport="rest",
            client_options={"api_endpoint": self.cloud.compute_url},
        )

    def wait(self, operation):
        """Waits for an operation; answers how it ended."""
        done = self.operations.wait(operation=operation.name, **self.where)
        assert done.status == compute.Operation.Status.DONE and done.end_time
        assert done.name == operation.name and done.target_link == operation.target_link
        return done

    def succeed(self, operation):
        done = self.wait(operation)
        assert not done.error.errors and not done.http_error_status_code, done
        return done

    def disk(self, name, **fields):
        """Makes a data disk."""
        kind = f"zones/{ZONE}/diskTypes/pd-standard"
        wanted = compute.Disk(name=name, size_gb=20, type_=kind, **fields)
        return self.succeed(self.disks.insert_unary(disk_resource=wanted, **self.where))

    def vm(self, name, data=None, labels=None, key=""):
        """What a standby is made of; `data` is the name of a disk that exists."""
        boot = compute.AttachedDiskInitializeParams(
            source_image="projects/debian-cloud/global/images/family/debian-12",
            disk_size_gb=10,
            disk_type=f"zones/{ZONE}/diskTypes/pd-standard",
        )
        disks = [compute.AttachedDisk(boot=True, auto_delete=True, device_name="boot", initialize_params=boot)]
        if data:
            source = f"projects/{self.project}/zones/{ZONE}/disks/{data}"
            disks.append(compute.AttachedDisk(boot=False, auto_delete=False, device_name="data", source=source))
        nat = compute.AccessConfig(type_="ONE_TO_ONE_NAT", name="External NAT", network_tier="PREMIUM")
        network = f"projects/{self.project}/global/networks/default"
        return compute.Instance(
            name=name,
            machine_type=f"zones/{ZONE}/machineTypes/e2-medium",
            labels=labels or {"managed-by": "contract"},
            disks=disks,
            network_interfaces=[
                compute.NetworkInterface(network=network, stack_type="IPV4_ONLY", access_configs=[nat])
            ],
            scheduling=compute.Scheduling(
                provisioning_model="SPOT",
                instance_termination_action="STOP",
                automatic_restart=False,
                on_host_maintenance="TERMINATE",
            ),
            metadata=compute.Metadata(
                items=[
                    compute.Items(key="enable-guest-attributes", value="TRUE"),
                    compute.Items(key="ssh-keys", value=f"{self.cloud.login_user}:{key}" if key else ""),
                ]
            ),
        )

    def insert(self, *arguments, **fields):
        return self.instances.insert_unary(instance_resource=self.vm(*arguments, **fields), **self.where)

    def get(self, name):
        return self.instances.get(instance=name, **self.where)

    def on(self, verb, name, **fields):
        """Runs a verb on an instance to its successful end."""
        return self.succeed(getattr(self.instances, f"{verb}_unary")(instance=name, **self.where, **fields))

    def address(self, name):
        return self.get(name).network_interfaces[0].access_configs[0].nat_i_p

    def wire(self, path):
        """The JSON itself, unread by the client's types."""
        session = google.auth.transport.requests.AuthorizedSession(self.credentials)
        answer = session.get(f"{self.cloud.compute_url}/compute/v1/projects/{self.project}/{path}", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
def google_cloud(cloud):
    return Google(cloud)


def reason(raised):
    """The machine-readable reason of an error the client raised."""
    return raised.value.errors[0]["reason"]


def test_without_credentials_nothing_is_answered(google_cloud):
    # The client sends no Authorization header, gets 401, and cannot get a better token.
    anonymous = google_cloud.client(compute.InstancesClient, AnonymousCredentials())
    with pytest.raises(InvalidOperation):
        anonymous.get(instance="sb-1", **google_cloud.where)
    answers = [one["status"] for one in google_cloud.cloud.requests() if one["path"].startswith("/compute/")]
    assert answers == [401]


def test_a_token_that_the_service_account_signs_for_itself_is_enough(google_cloud):
    g = google_cloud
    signer = google.auth.jwt.Credentials.from_service_account_file
    for audience, is_ours in (("https://compute.googleapis.com/", True), ("https://storage.googleapis.com/", False)):
        disks = g.client(compute.DisksClient, signer(g.cloud.key_file, audience=audience))
        if is_ours:
            assert list(disks.list(**g.where)) == []
        else:
            with pytest.raises(exceptions.Unauthorized):
                disks.list(**g.where)


def test_a_disk_is_made_grown_labelled_and_deleted(google_cloud):
    g = google_cloud
    done = g.disk("data-1", labels={"managed-by": "contract"})
    assert done.operation_type == "insert" and done.target_link.endswith(f"/zones/{ZONE}/disks/data-1")
    disk = g.disks.get(disk="data-1", **g.where)
    assert disk.status == "READY" and disk.size_gb == 20 and dict(disk.labels) == {"managed-by": "contract"}
    assert disk.type_.endswith("/diskTypes/pd-standard") and done.target_id == disk.id and not disk.users

    larger = compute.DisksResizeRequest(size_gb=30)
    g.succeed(g.disks.resize_unary(disk="data-1", disks_resize_request_resource=larger, **g.where))
    assert g.disks.get(disk="data-1", **g.where).size_gb == 30
    with pytest.raises(exceptions.BadRequest) as smaller:
        g.disks.resize_unary(
            disk="data-1", disks_resize_request_resource=compute.DisksResizeRequest(size_gb=10), **g.where
        )
    assert reason(smaller) == "invalid"

    labels = compute.ZoneSetLabelsRequest(labels={"gpu-id": "1"}, label_fingerprint=disk.label_fingerprint)
    request = {"resource": "data-1", "zone_set_labels_request_resource": labels, **g.where}
    g.succeed(g.disks.set_labels_unary(**request))
    assert dict(g.disks.get(disk="data-1", **g.where).labels) == {"gpu-id": "1"}
    with pytest.raises(exceptions.PreconditionFailed):
        g.disks.set_labels_unary(**request)

    g.disk("data-2")
    assert [one.name for one in g.disks.list(**g.where)] == ["data-1", "data-2"]
    everywhere = g.disks.aggregated_list(compute.AggregatedListDisksRequest(project=g.project, filter="labels.gpu-id:*"))
    assert [(zone, [one.name for one in scope.disks]) for zone, scope in everywhere if scope.disks] == [
        (f"zones/{ZONE}", ["data-1"])
    ]
    g.succeed(g.disks.delete_unary(disk="data-1", **g.where))
    with pytest.raises(exceptions.NotFound) as gone:
        g.disks.get(disk="data-1", **g.where)
    assert reason(gone) == "notFound"


def test_a_vm_runs_publishes_its_host_key_and_answers_ssh(google_cloud, key_pair):
    g, (private, public) = google_cloud, key_pair
    g.disk("data-1")
    operation = g.insert("sb-1", data="data-1", key=public)
    assert operation.status in (compute.Operation.Status.PENDING, compute.Operation.Status.RUNNING)
    polled = g.operations.get(operation=operation.name, **g.where)
    assert polled.name == operation.name and polled.operation_type == "insert"
    assert g.get("sb-1").status in ("PROVISIONING", "STAGING")
    with pytest.raises(exceptions.NotFound):
        g.instances.get_guest_attributes(instance="sb-1", **g.where)
    assert g.succeed(operation).target_id == g.get("sb-1").id

    vm = g.get("sb-1")
    assert vm.status == "RUNNING" and vm.machine_type.endswith("/machineTypes/e2-medium") and vm.last_start_timestamp
    assert vm.scheduling.provisioning_model == "SPOT" and vm.scheduling.preemptible
    assert [(disk.boot, disk.auto_delete, disk.device_name) for disk in vm.disks] == [
        (True, True, "boot"),
        (False, False, "data"),
    ]
    assert vm.disks[1].source.endswith("/disks/data-1")
    assert g.disks.get(disk="data-1", **g.where).users == [vm.self_link]

    def host_key():
        request = compute.GetGuestAttributesInstanceRequest(instance="sb-1", query_path="hostkeys/", **g.where)
        try:
            return g.instances.get_guest_attributes(request).query_value.items[0]
        except exceptions.NotFound:
            return None

    key = until("the host key is published", host_key)
    assert key.namespace == "hostkeys" and key.key == "ssh-ed25519"
    one = compute.GetGuestAttributesInstanceRequest(instance="sb-1", variable_key="hostkeys/ssh-ed25519", **g.where)
    assert g.instances.get_guest_attributes(one).variable_value == key.value
    console = g.instances.get_serial_port_output(instance="sb-1", **g.where)
    assert f"ssh-ed25519 {key.value}" in console.contents and console.next_ == len(console.contents)
    log_in = lambda: ssh(g.cloud.login_user, g.address("sb-1"), g.cloud.ssh_port, private, "ls", "-d", "data")
    assert until("the standby answers SSH", log_in) == "data"


def test_lists_find_vms_by_label_page_by_page(google_cloud):
    g = google_cloud
    wanted = [g.insert(f"sb-{number}") for number in (1, 2, 3)]
    wanted.append(g.insert("other", labels={"managed-by": "somebody"}))
    for operation in wanted:
        g.succeed(operation)
    ours = 'labels.managed-by = "contract"'

    def names(text, **fields):
        request = compute.ListInstancesRequest(filter=text, **fields, **g.where)
        return [vm.name for vm in g.instances.list(request)]

    assert names(ours) == names(ours, max_results=1) == ["sb-1", "sb-2", "sb-3"]
    assert names(f'({ours}) (status = "RUNNING")', max_results=2) == ["sb-1", "sb-2", "sb-3"]
    assert names(f'{ours} AND name = "sb-2"') == ["sb-2"] and names('labels.managed-by != "contract"') == ["other"]
    assert names('labels.managed-by = "nobody"') == []
    with pytest.raises(exceptions.BadRequest) as refused:
        names("labels.managed-by =")
    assert reason(refused) == "invalid"

    request = compute.AggregatedListInstancesRequest(project=g.project, filter=ours, max_results=2)
    scopes = list(g.instances.aggregated_list(request))
    found = [(zone, vm.name) for zone, scope in scopes for vm in scope.instances]
    assert found == [(f"zones/{ZONE}", name) for name in ("sb-1", "sb-2", "sb-3")]
    empty = [scope for zone, scope in scopes if zone == "zones/europe-west4-a"]
    assert empty and all(scope.warning.code == "NO_RESULTS_ON_PAGE" for scope in empty)


def test_a_stopped_vm_loses_its_address_and_a_started_one_has_its_disk_and_key_again(google_cloud, key_pair):
    g, (private, public) = google_cloud, key_pair
    g.disk("data-1")
    g.succeed(g.insert("sb-1", data="data-1", key=public))
    log_in = lambda *words: ssh(g.cloud.login_user, g.address("sb-1"), g.cloud.ssh_port, private, *words)
    until("the standby answers SSH", lambda: log_in("echo kept > data/file; echo written") == "written")

    assert g.on("stop", "sb-1").operation_type == "stop"
    vm = g.get("sb-1")
    assert vm.status == "TERMINATED" and vm.last_stop_timestamp and not g.address("sb-1")
    assert not g.cloud.machines()["sb-1"]["is_on"]
    g.on("start", "sb-1")
    assert g.get("sb-1").status == "RUNNING" and g.address("sb-1")
    assert until("the standby answers SSH again", lambda: log_in("cat", "data/file")) == "kept"
    g.on("reset", "sb-1")
    assert until("the standby answers SSH after a reset", lambda: log_in("cat", "data/file")) == "kept"

    with pytest.raises(exceptions.BadRequest) as used:
        g.disks.delete_unary(disk="data-1", **g.where)
    assert reason(used) == "resourceInUseByAnotherResource"
    g.on("delete", "sb-1")
    with pytest.raises(exceptions.NotFound):
        g.get("sb-1")
    with pytest.raises(exceptions.NotFound):
        g.disks.get(disk="sb-1", **g.where)
    assert not g.disks.get(disk="data-1", **g.where).users, "a disk without auto-delete outlives its VM"
    with pytest.raises(exceptions.NotFound):
        g.instances.delete_unary(instance="sb-1", **g.where)


def test_a_name_is_given_once_and_a_repeated_request_is_the_first_one(google_cloud):
    g = google_cloud
    g.disk("data-1")
    with pytest.raises(exceptions.Conflict) as disk:
        g.disks.insert_unary(disk_resource=compute.Disk(name="data-1", size_gb=20), **g.where)
    assert (disk.value.code, reason(disk)) == (409, "alreadyExists")
    wish = g.vm("sb-1")
    request = compute.InsertInstanceRequest(instance_resource=wish, request_id=str(uuid.uuid4()), **g.where)
    first, repeated = g.instances.insert_unary(request), g.instances.insert_unary(request)
    assert first.name == repeated.name and repeated.client_operation_id == request.request_id
    with pytest.raises(exceptions.Conflict) as vm:
        g.insert("sb-1")
    assert (vm.value.code, reason(vm)) == (409, "alreadyExists")
    assert "/instances/sb-1' already exists" in vm.value.message
    g.succeed(first)


def test_what_is_not_there_is_not_found_and_what_is_wrong_is_a_bad_request(google_cloud):
    g = google_cloud
    for absent in (
        lambda: g.get("sb-1"),
        lambda: g.instances.start_unary(instance="sb-1", **g.where),
        lambda: g.insert("sb-1", data="no-such-disk"),
        lambda: g.operations.get(operation="operation-1", **g.where),
        lambda: g.operations.wait(operation="operation-1", **g.where),
        lambda: g.disks.get(project="another-project", zone=ZONE, disk="data-1"),
    ):
        with pytest.raises(exceptions.NotFound) as raised:
            absent()
        assert reason(raised) == "notFound"
    bad_label = compute.Disk(name="data-1", size_gb=20, labels={"Upper": "case"})
    for wrong in (
        lambda: g.insert("Upper-Case"),
        lambda: g.disks.insert_unary(disk_resource=bad_label, **g.where),
        lambda: g.disks.list(project=g.project, zone="mars-north1-a"),
        lambda: g.instances.insert_unary(
            compute.InsertInstanceRequest(instance_resource=g.vm("sb-1"), request_id="no-uuid", **g.where)
        ),
    ):
        with pytest.raises(exceptions.BadRequest) as raised:
            wrong()
        assert reason(raised) == "invalid"
    assert g.cloud.machines() == {}


def test_exhausted_capacity_is_the_operations_error_and_leaves_nothing(google_cloud):
    g = google_cloud
    g.cloud.control("POST", f"zones/{ZONE}/capacity-out", {})
    accepted = g.insert("sb-1")
    assert not accepted.error.errors, "the insert itself is accepted"
    failed = g.wait(accepted)
    (error,) = failed.error.errors
    assert error.code == EXHAUSTED and f"projects/{g.project}/zones/{ZONE}" in error.message
    assert (failed.http_error_status_code, failed.http_error_message) == (503, "SERVICE UNAVAILABLE")
    info = error.error_details[0].error_info
    assert info.reason == "resource_availability" and info.metadatas["vmType"] == "e2-medium"
    others = info.metadatas["zonesAvailable"].split(",")
    assert ZONE not in others and all(zone.startswith("us-central1-") for zone in others)
    with pytest.raises(exceptions.NotFound):
        g.get("sb-1")
    assert list(g.disks.list(**g.where)) == []

    g.cloud.control("POST", f"zones/{ZONE}/capacity-back", {})
    g.succeed(g.insert("sb-1"))
    g.on("stop", "sb-1")
    g.cloud.control("POST", f"zones/{ZONE}/capacity-out", {})
    refused = g.wait(g.instances.start_unary(instance="sb-1", **g.where))
    assert [error.code for error in refused.error.errors] == [EXHAUSTED]
    assert g.get("sb-1").status == "TERMINATED"


def test_an_exceeded_quota_is_forbidden_at_once_or_fails_the_operation(google_cloud):
    g = google_cloud
    g.cloud.control("POST", "settings", {"quota": "immediate"})
    with pytest.raises(exceptions.Forbidden) as refused:
        g.insert("sb-1")
    assert reason(refused) == "quotaExceeded"
    g.cloud.control("POST", "settings", {"quota": "in-operation"})
    (error,) = g.wait(g.insert("sb-1")).error.errors
    assert error.code == "QUOTA_EXCEEDED"
    quota = error.error_details[0].quota_info
    assert (quota.limit_name, quota.limit) == ("CPUS-per-project-region", 24.0)


def test_the_clients_own_waiting_ends_and_raises_what_the_operation_says(google_cloud):
    g = google_cloud
    # Private, but the only way: else result() polls the real compute.googleapis.com.
    g.instances.transport._extended_operations_services["zone_operations"] = g.operations
    where = {"instance": "sb-1", **g.where}
    g.instances.insert(instance_resource=g.vm("sb-1"), **g.where).result(timeout=60)
    assert g.get("sb-1").status == "RUNNING"
    g.instances.stop(**where).result(timeout=60)
    g.cloud.control("POST", f"zones/{ZONE}/capacity-out", {})
    start = g.instances.start(**where)
    with pytest.raises(exceptions.ServiceUnavailable) as raised:
        start.result(timeout=60)
    assert EXHAUSTED in str(raised.value) and (start.error_code, start.done()) == (503, True)
    g.instances.delete(**where).result(timeout=60)
    with pytest.raises(exceptions.NotFound):
        g.get("sb-1")


def test_labels_and_metadata_change_only_with_a_fresh_fingerprint(google_cloud):
    g = google_cloud
    g.succeed(g.insert("sb-1"))
    vm = g.get("sb-1")
    labels = compute.InstancesSetLabelsRequest(labels={"gpu-id": "7"}, label_fingerprint=vm.label_fingerprint)
    g.on("set_labels", "sb-1", instances_set_labels_request_resource=labels)
    changed = g.get("sb-1")
    assert dict(changed.labels) == {"gpu-id": "7"} and changed.label_fingerprint != vm.label_fingerprint
    with pytest.raises(exceptions.PreconditionFailed) as stale:
        g.on("set_labels", "sb-1", instances_set_labels_request_resource=labels)
    assert reason(stale) == "conditionNotMet" and "Labels fingerprint" in stale.value.message

    metadata = compute.Metadata(items=[compute.Items(key="a", value="b")], fingerprint=vm.metadata.fingerprint)
    g.on("set_metadata", "sb-1", metadata_resource=metadata)
    assert [(item.key, item.value) for item in g.get("sb-1").metadata.items] == [("a", "b")]
    with pytest.raises(exceptions.PreconditionFailed):
        g.on("set_metadata", "sb-1", metadata_resource=metadata)


def test_a_spot_vm_is_preempted_by_the_system_and_starts_again(google_cloud):
    g = google_cloud
    g.succeed(g.insert("sb-1"))
    g.instances.simulate_maintenance_event_unary(instance="sb-1", **g.where)
    until("the VM is off", lambda: g.get("sb-1").status == "TERMINATED")
    request = compute.ListZoneOperationsRequest(filter='operationType="compute.instances.preempted"', **g.where)
    (preempted,) = g.operations.list(request)
    assert preempted.user == "system" and preempted.target_id == g.get("sb-1").id
    standard = compute.Scheduling(provisioning_model="STANDARD", automatic_restart=True, on_host_maintenance="MIGRATE")
    g.on("set_scheduling", "sb-1", scheduling_resource=standard)
    small = compute.InstancesSetMachineTypeRequest(machine_type=f"zones/{ZONE}/machineTypes/e2-small")
    g.on("set_machine_type", "sb-1", instances_set_machine_type_request_resource=small)
    g.on("start", "sb-1")
    vm = g.get("sb-1")
    assert vm.status == "RUNNING" and vm.machine_type.endswith("/e2-small") and not vm.scheduling.preemptible


def test_disks_move_between_vms_and_go_with_them_when_told_to(google_cloud):
    g = google_cloud
    g.disk("data-1")
    g.succeed(g.insert("sb-1"))
    source = f"projects/{g.project}/zones/{ZONE}/disks/data-1"
    attached = compute.AttachedDisk(source=source, device_name="data", mode="READ_WRITE")
    g.on("attach_disk", "sb-1", attached_disk_resource=attached)
    assert [disk.device_name for disk in g.get("sb-1").disks] == ["boot", "data"]
    g.on("detach_disk", "sb-1", device_name="data")
    assert [disk.device_name for disk in g.get("sb-1").disks] == ["boot"]
    g.on("attach_disk", "sb-1", attached_disk_resource=attached)
    g.on("set_disk_auto_delete", "sb-1", auto_delete=True, device_name="data")
    assert g.get("sb-1").disks[1].auto_delete
    g.on("delete", "sb-1")
    assert list(g.disks.list(**g.where)) == []


def test_zones_regions_and_machine_types_are_described(google_cloud):
    g = google_cloud
    zone = g.client(compute.ZonesClient).get(project=g.project, zone=ZONE)
    assert zone.status == "UP" and zone.region.endswith("/regions/us-central1")
    assert ZONE in {one.name for one in g.client(compute.ZonesClient).list(project=g.project)}
    region = g.client(compute.RegionsClient).get(project=g.project, region="us-central1")
    assert zone.self_link in region.zones and {quota.metric for quota in region.quotas} >= {"CPUS"}
    kind = g.client(compute.MachineTypesClient).get(machine_type="e2-medium", **g.where)
    assert (kind.guest_cpus, kind.memory_mb) == (2, 4096)


def test_every_field_that_simcloud_sends_is_one_of_googles(google_cloud):
    g = google_cloud
    g.disk("data-1", labels={"managed-by": "contract"})
    operation = g.insert("sb-1", data="data-1")
    g.succeed(operation)
    g.cloud.control("POST", f"zones/{ZONE}/capacity-out", {})
    failed = g.wait(g.insert("sb-2"))
    here = f"zones/{ZONE}"
    # The client itself skips fields it does not know, so a wrong name would read as an absent value.
    for path, kind in (
        (f"{here}/instances/sb-1", compute.Instance),
        (f"{here}/instances", compute.InstanceList),
        ("aggregated/instances", compute.InstanceAggregatedList),
        (f"{here}/disks/data-1", compute.Disk),
        (f"{here}/disks", compute.DiskList),
        ("aggregated/disks", compute.DiskAggregatedList),
        (f"{here}/operations/{operation.name}", compute.Operation),
        (f"{here}/operations/{failed.name}", compute.Operation),
        (f"{here}/operations", compute.OperationList),
        (f"{here}/instances/sb-1/serialPort", compute.SerialPortOutput),
        (here, compute.Zone),
        ("zones", compute.ZoneList),
        ("regions/us-central1", compute.Region),
        (f"{here}/machineTypes/e2-medium", compute.MachineType),
        ("", compute.Project),
    ):
        text = g.wire(path).strip()
        kind.from_json(text, ignore_unknown_fields=False)
        # 64-bit numbers travel as strings, which the type cannot tell.
        row = json.loads(text)
        for name in ("id", "targetId", "sizeGb", "next", "start"):
            assert isinstance(row.get(name, ""), str), (path, name)
