//! Downloads straight from the standby, with one key, read-only, for a while.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use warmspare_agent::clock;
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{AuthorizeDownload, Outcome, PointChoice, RefusalKind, Request, Urgency};

use crate::support::{
    Machine, Standby, assert_same_tree, bound, eventually, grow_rich_tree, kill, noise, refusal_of, remove_tree,
    status_of, write,
};

const FIRST: Epoch = Epoch::FIRST;

/// A person with a key, and the standby's own sshd.
struct Person {
    place: tempfile::TempDir,
    sshd: Machine,
}

impl Person {
    fn of(standby: &Standby) -> Self {
        let place = tempfile::tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(place.path().join("key"))
            .stdin(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let sshd = Machine::start(&[]);
        let keys = sshd.place.path().join("authorized_keys");
        fs::remove_file(&keys).unwrap();
        fs::create_dir_all(standby.home.join(".ssh")).unwrap();
        fs::write(standby.home.join(".ssh/authorized_keys"), "# kept\n").unwrap();
        std::os::unix::fs::symlink(standby.home.join(".ssh/authorized_keys"), keys).unwrap();
        Self { place, sshd }
    }

    fn key(&self) -> String {
        let line = fs::read_to_string(self.place.path().join("key.pub")).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn ssh(&self) -> String {
        format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p {} -l {}",
            self.place.path().join("key").display(),
            self.sshd.port,
            crate::support::user()
        )
    }

    fn rsync(&self, options: &[&str], from: &str, to: &Path) -> Output {
        Command::new("rsync")
            .args(options)
            .args(["-e", &self.ssh()])
            .arg(format!("127.0.0.1:{from}"))
            .arg(to)
            .output()
            .unwrap()
    }

    fn run(&self, command: &str) -> Output {
        let words = self.ssh();
        let mut words = words.split(' ');
        let mut ssh = Command::new(words.next().unwrap());
        ssh.args(words)
            .arg("127.0.0.1")
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

fn authorize(standby: &Standby, key: &str, until: Timestamp) -> Outcome {
    authorize_for(standby, key, until, PointChoice::Latest)
}

fn authorize_for(standby: &Standby, key: &str, until: Timestamp, point: PointChoice) -> Outcome {
    standby.call(Request::AuthorizeDownload(AuthorizeDownload {
        public_key: key.to_owned(),
        until,
        point,
    }))
}

fn soon() -> Timestamp {
    clock::now() + Duration::from_secs(3600)
}

#[test]
fn an_authorised_key_downloads_the_point_it_was_given_and_nothing_else() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    let point = standby.pass(FIRST).points.latest.unwrap();
    let person = Person::of(&standby);
    let before = person.rsync(&["-aHX"], "/", person.place.path());
    assert!(!before.status.success(), "the key worked before it was authorised");
    let Outcome::DownloadAuthorized { point: given, .. } = authorize(&standby, &person.key(), soon()) else {
        panic!("not authorised");
    };
    assert_eq!(given.id, point.id);
    write(&gpu.tree().join("later"), "not in the point");
    standby.pass(FIRST);
    let got = person.place.path().join("got");
    let options = [
        "-aHXS",
        "--numeric-ids",
        "--partial",
        "--info=progress2",
        "--modify-window=-1",
    ];
    let download = person.rsync(&options, "/etc/anything/", &got);
    assert!(download.status.success(), "{download:?}");
    assert_same_tree(&standby.point_tree(&point), &got);
}

#[test]
fn an_authorised_key_can_neither_write_nor_run_nor_follow_links() {
    let (gpu, standby) = bound();
    std::os::unix::fs::symlink("/etc/passwd", gpu.tree().join("link")).unwrap();
    let point = standby.pass(FIRST).points.latest.unwrap();
    let person = Person::of(&standby);
    authorize(&standby, &person.key(), soon());
    for command in [
        "id",
        "sh",
        "",
        "rsync --server -re.iLsfxC . /tmp",
        "scp -f /etc/passwd",
        "cat /etc/passwd",
    ] {
        let output = person.run(command);
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{command:?}: {output:?}"
        );
    }
    let got = person.place.path().join("got");
    let follow = person.rsync(&["-aL"], "/", &got);
    assert!(!follow.status.success() && !got.join("link").exists());
    write(&person.place.path().join("mine"), "x");
    let push = Command::new("rsync")
        .args(["-a", "-e", &person.ssh()])
        .arg(person.place.path().join("mine"))
        .arg("127.0.0.1:/")
        .output()
        .unwrap();
    assert!(!push.status.success());
    assert_eq!(fs::read_dir(standby.point_tree(&point)).unwrap().count(), 1);
    assert!(
        person.run("exit 0").stderr.len() > 20,
        "a refusal says what the key is for"
    );
}

#[test]
fn a_permission_ends_and_its_line_goes_while_others_stay() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let person = Person::of(&standby);
    let keys = || fs::read_to_string(standby.home.join(".ssh/authorized_keys")).unwrap();
    authorize(&standby, &person.key(), clock::now() + Duration::from_millis(1500));
    authorize(&standby, &person.key(), clock::now() + Duration::from_millis(1500));
    assert_eq!(keys().lines().count(), 2, "one key, one line: {}", keys());
    let got = person.place.path().join("got");
    crate::support::eventually("the permission ended", || {
        (!person.rsync(&["-a"], "/", &got).status.success()).then_some(())
    });
    standby.status();
    assert_eq!(keys(), "# kept\n");
}

#[test]
fn only_a_plain_key_and_a_future_instant_are_authorised() {
    let (gpu, standby) = bound();
    let person = Person::of(&standby);
    let kind = |outcome| refusal_of(outcome).kind;
    assert_eq!(
        kind(authorize(&standby, &person.key(), soon())),
        RefusalKind::NoRecoveryPoint
    );
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let bad = format!("{}\ncommand=\"sh\" {}", person.key(), person.key());
    assert_eq!(kind(authorize(&standby, &bad, soon())), RefusalKind::BadRequest);
    assert_eq!(
        kind(authorize(&standby, &person.key(), clock::now())),
        RefusalKind::BadRequest
    );
    assert_eq!(
        fs::read_to_string(standby.home.join(".ssh/authorized_keys")).unwrap(),
        "# kept\n"
    );
}

#[test]
fn through_sudo_the_logins_keys_stay_the_logins_and_the_download_goes_through_sudo_too() {
    use std::os::unix::fs::MetadataExt;
    if !crate::support::is_root() {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let person = Person::of(&standby);
    let nobody = 65_534;
    let keys = standby.home.join(".ssh/authorized_keys");
    for path in [standby.home.clone(), standby.home.join(".ssh"), keys.clone()] {
        std::os::unix::fs::chown(path, Some(nobody), Some(nobody)).unwrap();
    }
    let request = AuthorizeDownload {
        public_key: person.key(),
        until: soon(),
        point: PointChoice::Latest,
    };
    let call = serde_json::to_vec(&warmspare_wire::agent::Call::new(Request::AuthorizeDownload(request))).unwrap();
    let output = crate::support::run(standby.command().arg("call").env("SUDO_UID", "65534"), &call);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("download_authorized"),
        "{output:?}"
    );
    let found = fs::metadata(&keys).unwrap();
    assert_eq!(
        (found.uid(), found.gid()),
        (nobody, nobody),
        "sshd reads the file as the login"
    );
    let text = fs::read_to_string(&keys).unwrap();
    assert!(
        text.starts_with("# kept\ncommand=\"sudo -n --preserve-env=SSH_ORIGINAL_COMMAND /"),
        "{text}"
    );
}

fn unpack(archive: &[u8], into: &Path) {
    fs::create_dir_all(into).unwrap();
    let output = crate::support::run(
        Command::new("tar")
            .args([
                "--extract",
                "--file=-",
                "--preserve-permissions",
                "--xattrs",
                "--directory",
            ])
            .arg(into),
        archive,
    );
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn an_authorised_key_gets_the_point_or_one_path_of_it_as_a_tar_stream() {
    let (gpu, standby) = bound();
    grow_rich_tree(&gpu.tree());
    let point = standby.pass(FIRST).points.latest.unwrap();
    let person = Person::of(&standby);
    authorize(&standby, &person.key(), soon());
    let whole = person.run("warmspare-tar");
    assert!(whole.status.success(), "{:?}", String::from_utf8_lossy(&whole.stderr));
    let got = person.place.path().join("got");
    unpack(&whole.stdout, &got);
    assert_same_tree(&standby.point_tree(&point), &got);
    let odd = person.run("warmspare-tar names/not%20%ff%fe%20utf-8");
    let one = person.place.path().join("one");
    unpack(&odd.stdout, &one);
    assert_eq!(fs::read_dir(one.join("names")).unwrap().count(), 1);
    for command in [
        "warmspare-tar /etc/passwd",
        "warmspare-tar ../../binding.json",
        "warmspare-tar links/4/binding.json",
        "warmspare-tar a;id",
        "warmspare-tar nothing-here",
        "warmspare-tar --checkpoint-action=exec=id",
    ] {
        let refused = person.run(command);
        assert!(
            !refused.status.success() && refused.stdout.is_empty(),
            "{command}: {refused:?}"
        );
    }
}

/// A first pass that ended when code and the checkpoint had arrived, and the images had not.
fn broken_off() -> (Machine, Standby) {
    let (mut gpu, standby) = bound();
    for (name, size) in [("src/train.py", 300), ("runs/new.pt", 40 << 20), ("data/1.jpg", 5000)] {
        write(&gpu.tree().join(name), noise(size));
    }
    gpu.wrap_rsync("", "hold");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    // The list, then code.
    for _ in 0..2 {
        gpu.wait_until_held();
        gpu.release_once();
    }
    gpu.wait_until_held();
    let checkpoint = standby.data.join("incoming/runs/new.pt");
    eventually("the checkpoint arrived", || checkpoint.exists().then_some(()));
    standby.workers().into_iter().for_each(kill);
    gpu.release();
    eventually("the worker ended", || standby.workers().is_empty().then_some(()));
    (gpu, standby)
}

fn assert_partial(standby: &Standby, person: &Person, gpu_had: &[(&str, Vec<u8>)]) {
    let outcome = authorize_for(standby, &person.key(), soon(), PointChoice::Partial);
    let Outcome::PartialDownloadAuthorized { partial, .. } = outcome else {
        panic!("not authorised: {outcome:?}");
    };
    assert_eq!(partial.files, gpu_had.len() as u64);
    let got = person.place.path().join("got");
    let download = person.rsync(&["-aHX", "--partial"], "/", &got);
    assert!(download.status.success(), "{download:?}");
    for (name, content) in gpu_had {
        assert!(fs::read(got.join(name)).unwrap() == *content, "{name} differs");
    }
    assert!(!got.join("data/1.jpg").exists());
    let archive = person.run("warmspare-tar src");
    assert!(archive.status.success() && !archive.stdout.is_empty(), "{archive:?}");
}

fn arrived(gpu: &Machine) -> Vec<(&'static str, Vec<u8>)> {
    ["src/train.py", "runs/new.pt"]
        .map(|name| (name, fs::read(gpu.tree().join(name)).unwrap()))
        .into()
}

#[test]
fn what_arrived_of_a_first_pass_is_downloaded_and_nothing_else_is_done_with_it() {
    let (mut gpu, standby) = broken_off();
    gpu.halt();
    let person = Person::of(&standby);
    assert_partial(&standby, &person, &arrived(&gpu));
    let latest = refusal_of(authorize(&standby, &person.key(), soon()));
    assert_eq!(latest.kind, RefusalKind::NoRecoveryPoint, "{latest:?}");
    assert!(latest.message.contains("ask for `partial`"), "{latest:?}");
    let target = Machine::start(&[&standby.key()]);
    let mut restore = standby.restore_request(&target, FIRST.next(), 0);
    restore.point = PointChoice::Partial;
    let restore = refusal_of(standby.call(Request::Restore(restore)));
    assert_eq!(restore.kind, RefusalKind::BadRequest, "{restore:?}");

    gpu.boot();
    let point = standby.pass(FIRST).points.latest.unwrap();
    assert_same_tree(&gpu.tree(), &standby.point_tree(&point));
    let over = refusal_of(authorize_for(&standby, &person.key(), soon(), PointChoice::Partial));
    assert_eq!(over.kind, RefusalKind::BadRequest, "{over:?}");
    let old = person.rsync(&["-a"], "/", &person.place.path().join("late"));
    let words = String::from_utf8_lossy(&old.stderr).into_owned();
    assert!(
        !old.status.success() && words.contains("the first pass is complete"),
        "{words}"
    );
}

#[test]
fn a_gpu_that_comes_back_empty_in_its_first_pass_halts_and_what_arrived_stays() {
    let (gpu, standby) = broken_off();
    let had = arrived(&gpu);
    remove_tree(&gpu.tree());
    fs::create_dir(gpu.tree()).unwrap();
    for _ in 0..2 {
        let status = status_of(standby.try_sync(FIRST, Urgency::Due, 30_000));
        let halt = status.halt.expect("it copied an empty directory");
        assert_eq!(halt.reason, HaltReason::MarkerMissing);
        assert!(status.points.partial.0 > 40 << 20, "what arrived was thrown away");
    }
    assert_partial(&standby, &Person::of(&standby), &had);
}

#[test]
fn before_anything_arrived_there_is_nothing_to_download() {
    let (_gpu, standby) = bound();
    let person = Person::of(&standby);
    let refusal = refusal_of(authorize_for(&standby, &person.key(), soon(), PointChoice::Partial));
    assert_eq!(refusal.kind, RefusalKind::NoRecoveryPoint, "{refusal:?}");
}
