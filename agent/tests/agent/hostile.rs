//! A GPU that attacks its standby: programs that lie, lists that never end, entries that must not exist here.
//! Whatever it does, recovery points stay as they were and nothing appears outside the copy.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Call, Live, PassFailure, PassFailureKind, Request, Status, Sync, Urgency};

use crate::support::{
    Entry, Machine, Standby, assert_same_tree, bound, eventually, is_root, odd_names, read_tree, run, write,
};

const FIRST: Epoch = Epoch::FIRST;

/// Reads the arguments that rsync sends over standard input, as rsync itself does for `-s`, and hands them to a liar.
const SECLUDED: &str = r#"
import os, sys
words = b""
while not words.endswith(b"\0\0"):
    byte = os.read(0, 1)
    if not byte:
        sys.exit(1)
    words += byte
words = words[:-2].split(b"\0")[1:]
plain = ["-" + word[2:] if word.startswith("-s") else word for word in sys.argv[1:]]
options, tree = plain + [word.decode() for word in words[:-1]], words[-1].decode()
"#;

/// Puts a program of the attacker in the place of rsync.
fn replace_rsync(gpu: &mut Machine, program: &str) {
    let bin = gpu.place.path().join("bin");
    write(&bin.join("rsync"), program);
    fs::set_permissions(bin.join("rsync"), fs::Permissions::from_mode(0o755)).unwrap();
    gpu.halt();
    gpu.boot_with(&format!("SetEnv SHLVL=5 PATH={}:/usr/bin:/bin", bin.display()), &[]);
}

/// A standby with a recovery point, and what stands in it.
fn attacked(program: &str) -> (Machine, Standby) {
    let (mut gpu, standby) = bound();
    for number in 0..20 {
        write(&gpu.tree().join(format!("file-{number}")), format!("content {number}"));
    }
    standby.pass(FIRST);
    write(&gpu.tree().join("file-0"), "changed");
    standby.pass(FIRST);
    replace_rsync(&mut gpu, program);
    write(&gpu.tree().join("new"), "x");
    (gpu, standby)
}

/// Runs a pass that must fail and must leave the recovery point as it was.
fn withstand(standby: &Standby) -> Status {
    let (points, before) = (standby.points(), what_must_stay(standby));
    assert!(points.len() > 1, "the attack is on older points, too");
    let status = standby.sync(FIRST);
    assert_eq!(standby.points(), points);
    assert_eq!(what_must_stay(standby), before);
    status
}

/// All around the data directory, and in it the keys, the known hosts and every recovery point.
fn what_must_stay(standby: &Standby) -> BTreeMap<Vec<u8>, Entry> {
    eventually("no worker writes any more", || {
        standby.workers().is_empty().then_some(())
    });
    let mut all = read_tree(standby.place.path());
    let precious: [&[u8]; 3] = [b"data/identity", b"data/known_hosts", b"data/recovery-points"];
    all.retain(|name, _| !name.starts_with(b"data") || precious.iter().any(|start| name.starts_with(start)));
    all
}

fn listing(place: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

fn failure(standby: &Standby) -> PassFailure {
    withstand(standby).last_failure.expect("the pass failed")
}

#[test]
fn an_rsync_that_says_nothing_and_succeeds_completes_no_pass() {
    let (_gpu, standby) = attacked("#!/bin/sh\nexit 0\n");
    failure(&standby);
}

#[test]
fn an_rsync_that_sends_noise_completes_no_pass() {
    let (_gpu, standby) = attacked("#!/bin/sh\nhead -c 1000000 /dev/urandom\nexit 0\n");
    failure(&standby);
}

#[test]
fn an_rsync_that_serves_an_empty_tree_halts_and_erases_nothing() {
    let (mut gpu, standby) = attacked("");
    let empty = gpu.place.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let program = format!(
        "#!/usr/bin/env python3\n{SECLUDED}\nos.execv('/usr/bin/rsync', ['rsync', *options, '{}/'])\n",
        empty.display()
    );
    replace_rsync(&mut gpu, &program);
    let halt = withstand(&standby).halt.expect("a guard holds");
    assert_eq!(halt.reason, HaltReason::SourceEmptied, "{halt:?}");
}

#[test]
fn names_that_climb_or_are_absolute_are_refused() {
    for name in ["../climb", "/tmp/clm", "a/../../", "x/../../c"] {
        let (mut gpu, standby) = attacked("");
        // The names in the list of files are ours to choose: it is our rsync that sends them.
        let honest = "QQQ_evil".get(..name.len()).unwrap_or("QQQ_evil1");
        write(&gpu.tree().join(honest), "escaped");
        let program = format!(
            r#"#!/usr/bin/env python3
{SECLUDED}
import subprocess, threading
child = subprocess.Popen(['/usr/bin/rsync', *options, tree], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def feed():
    while (piece := os.read(0, 65536)):
        os.write(child.stdin.fileno(), piece)
    child.stdin.close()
threading.Thread(target=feed, daemon=True).start()
while (piece := os.read(child.stdout.fileno(), 65536)):
    if b'{honest}' in piece:
        open(sys.argv[0] + '.sent', 'w').close()
    os.write(1, piece.replace(b'{honest}', b'{name}'))
sys.exit(child.wait())
"#
        );
        replace_rsync(&mut gpu, &program);
        failure(&standby);
        assert!(
            gpu.place.path().join("bin/rsync.sent").exists(),
            "{name} was never sent"
        );
        assert!(
            !listing(&standby.data)
                .iter()
                .any(|found| found.to_string_lossy().contains("climb"))
        );
        assert!(!Path::new("/tmp/clm").exists());
    }
}

#[test]
fn complaints_without_end_end_the_pass() {
    let line = r#"rsync: [sender] send_files failed to open "/w/a": Permission denied (13)"#;
    let (_gpu, standby) = attacked(&format!("#!/bin/sh\nexec yes '{line}' >&2\n"));
    let failed = failure(&standby);
    assert!(failed.message.contains("complain"), "{failed:?}");
}

/// A real rsync that reads the names it serves from a pipe that never ends: every one is valid.
fn endless_list(gpu: &Machine) -> String {
    let names = gpu.place.path().join("names");
    let made = Command::new("mkfifo").arg(&names).status();
    assert!(made.unwrap().success());
    format!(
        "#!/usr/bin/env python3\n{SECLUDED}\nimport subprocess\n\
         subprocess.Popen(['sh', '-c', 'exec yes file-1 > \"$0\"', '{0}'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)\n\
         os.execv('/usr/bin/rsync', ['rsync', *options[:-1], '--files-from={0}', options[-1], tree])\n",
        names.display()
    )
}

#[test]
fn a_list_without_end_fails_the_pass_in_bounded_memory() {
    let (mut gpu, standby) = attacked("");
    let program = endless_list(&gpu);
    replace_rsync(&mut gpu, &program);
    let (points, before) = (standby.points(), read_tree(&standby.newest_tree()));
    let request = Call::new(Request::Sync(Sync {
        epoch: FIRST,
        urgency: Urgency::Due,
        wait_ms: 30_000,
        live: Live::Off,
    }));
    // Less than a machine has, so that this one need not be filled; what is smaller than the agent's own limit holds.
    let output = run(
        Command::new("prlimit")
            .args(["--data=60000000", "--"])
            .arg(standby.command().get_program())
            .args(standby.command().get_args())
            .arg("call")
            .env("HOME", &standby.home),
        &serde_json::to_vec(&request).unwrap(),
    );
    assert!(output.status.success(), "{output:?}");
    let status = eventually("the list was given up", || {
        Some(standby.status()).filter(|status| status.last_failure.is_some())
    });
    let failed = status.last_failure.unwrap();
    assert_eq!(failed.kind, PassFailureKind::Failed);
    assert!(failed.message.contains("memory"), "{failed:?}");
    assert_eq!(standby.points(), points);
    assert_eq!(read_tree(&standby.newest_tree()), before);
}

#[test]
fn what_rsync_may_use_is_less_than_the_machine_has() {
    let (mut gpu, standby) = bound();
    gpu.wrap_rsync("hold", "");
    write(&gpu.tree().join("a"), "1");
    gpu.hold();
    standby.try_sync(FIRST, Urgency::Due, 0);
    gpu.wait_until_held();
    let total = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mut seen = 0;
    for worker in standby.workers() {
        for child in crate::support::descendants(worker) {
            let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            if name.trim() != "rsync" {
                continue;
            }
            let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max address space"))
                .unwrap();
            let most: u64 = line.split_whitespace().nth(3).unwrap().parse().expect(line);
            assert!(most < total * 1024, "{line}");
            seen += 1;
        }
    }
    assert!(seen > 0, "no rsync was running");
    gpu.release();
    standby.pass(FIRST);
}

#[test]
fn a_shell_that_answers_without_end_fails_the_pass() {
    let (mut gpu, standby) = attacked("");
    for program in ["yes", "cat /dev/urandom", "true"] {
        gpu.halt();
        gpu.boot_with(&format!("ForceCommand {program}"), &[]);
        failure(&standby);
    }
}

#[test]
fn devices_sockets_and_pipes_do_not_cross() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("plain"), "x");
    let make = |arguments: &[&str]| {
        let made = Command::new(arguments[0])
            .args(&arguments[1..])
            .current_dir(gpu.tree())
            .status();
        assert!(made.unwrap().success(), "{arguments:?}");
    };
    make(&["mkfifo", "pipe"]);
    let _socket = std::os::unix::net::UnixListener::bind(gpu.tree().join("socket")).unwrap();
    if is_root() {
        make(&["mknod", "disk", "b", "7", "0"]);
        make(&["mknod", "null", "c", "1", "3"]);
    }
    standby.pass(FIRST);
    let copied = listing(&standby.newest_tree());
    assert_eq!(copied, ["plain"]);
}

#[test]
fn programs_with_special_rights_are_out_of_others_reach() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("tool"), "#!/bin/sh\n");
    fs::set_permissions(gpu.tree().join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    let open_to = fs::metadata(&standby.data).unwrap().permissions().mode() & 0o077;
    assert_eq!(open_to, 0, "nobody but its owner may enter the data directory");
}

#[test]
fn names_that_are_commands_stay_names() {
    let (gpu, standby) = bound();
    for name in odd_names() {
        use std::os::unix::ffi::OsStrExt;
        write(&gpu.tree().join(std::ffi::OsStr::from_bytes(&name)), "x");
    }
    let before = listing(standby.place.path());
    standby.pass(FIRST);
    assert_same_tree(&gpu.tree(), &standby.newest_tree());
    assert_eq!(listing(standby.place.path()), before);
}
