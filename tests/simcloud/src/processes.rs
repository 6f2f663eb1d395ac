//! Finding and ending the processes of a machine, as its power switch does.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Environment variable that every process of a machine carries.
pub(crate) const MACHINE_VARIABLE: &str = "SIM_MACHINE";
/// Environment variable that names the sim a process belongs to, so that two sims on one host never end each other's.
pub(crate) const CLOUD_VARIABLE: &str = "SIM_CLOUD";

/// Which processes belong together.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(crate) cloud: String,
    pub(crate) machine: String,
}

impl Marks {
    fn are_on(&self, environment: &[u8]) -> bool {
        let machine = format!("{MACHINE_VARIABLE}={}", self.machine);
        let cloud = format!("{CLOUD_VARIABLE}={}", self.cloud);
        let has = |wanted: &str| {
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
        };
        has(&machine) && has(&cloud)
    }
}

/// Sends a signal to everything of one machine: its marked processes and `root` with all descendants. Returns how many it hit.
///
/// sshd overwrites its own environment with its title, so its sessions are found through the process tree.
pub(crate) fn signal_all(marks: &Marks, root: Option<u32>, signal: Signal) -> usize {
    let victims = of_machine(marks, root);
    for pid in &victims {
        if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile, which is what we want.
            let _ = kill_process(pid, signal);
        }
    }
    victims.len()
}

/// Ends every process of one machine and returns when none is left, or after ten seconds.
pub(crate) fn kill_all(marks: &Marks, root: Option<u32>) {
    // A stopped listener forks no further session while the tree is read.
    if let Some(pid) = root.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::STOP);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tree = root;
    while signal_all(marks, tree, Signal::KILL) > 0 && Instant::now() < deadline {
        tree = None;
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn of_machine(marks: &Marks, root: Option<u32>) -> BTreeSet<u32> {
    let table: Vec<(u32, u32)> = all_pids()
        .into_iter()
        .filter_map(|pid| Some((pid, parent_of(pid)?)))
        .collect();
    let mut found: BTreeSet<u32> = root.into_iter().collect();
    loop {
        let children: Vec<u32> = table
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        found.extend(children);
    }
    found.extend(table.iter().map(|(pid, _)| *pid).filter(|pid| is_marked(*pid, marks)));
    found
}

fn is_marked(pid: u32, marks: &Marks) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| marks.are_on(&environment))
}

fn all_pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The parent of a living process; `None` for a zombie, which holds nothing any more.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(parent)
}
