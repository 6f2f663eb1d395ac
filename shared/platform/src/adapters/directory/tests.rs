use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::contract::{add_one, association_store_contract, counter, fixture};
use crate::ports::AssociationStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let made = std::sync::atomic::AtomicUsize::new(0);
    association_store_contract(async || {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        DirectoryObjects::open(&directory.path().join(number.to_string())).unwrap()
    })
    .await;
}

/// A process of its own that counts up until it is killed, and says each number once it was acknowledged. Run by the test below.
#[tokio::test]
#[ignore = "a part of another test, which runs it as a process of its own"]
async fn writer_process() {
    let Ok(path) = std::env::var("WARMSPARE_TEST_STORE") else {
        return;
    };
    let store = DirectoryAssociations::open(Path::new(&path)).unwrap();
    loop {
        let count = add_one(&store, fixture(7).id).await;
        println!("acknowledged {count}");
    }
}

#[tokio::test]
async fn writers_killed_at_any_moment_lose_nothing_acknowledged_and_tear_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryAssociations::open(directory.path()).unwrap();
    store.create(&fixture(7)).await.unwrap();
    let mut acknowledged = 0;
    for round in 0_u64..20 {
        let spawn = || {
            Command::new(std::env::current_exe().unwrap())
                .args([
                    "--ignored",
                    "--exact",
                    "adapters::directory::tests::writer_process",
                    "--nocapture",
                ])
                .env("WARMSPARE_TEST_STORE", directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let mut writers = [spawn(), spawn()];
        // Not a wait for a state: the moment of the kill is what varies.
        tokio::time::sleep(Duration::from_millis(30 + 13 * round)).await;
        for writer in &mut writers {
            writer.kill().unwrap();
        }
        for writer in writers {
            let output = String::from_utf8(writer.wait_with_output().unwrap().stdout).unwrap();
            let counts = output
                .lines()
                .filter_map(|line| line.rsplit_once("acknowledged ")?.1.parse().ok());
            acknowledged = counts.fold(acknowledged, u64::max);
        }
        let store = DirectoryAssociations::open(directory.path()).unwrap();
        let count = counter(&store.get(fixture(7).id).await.unwrap().unwrap().association);
        assert!(count >= acknowledged, "acknowledged {acknowledged}, found {count}");
        let leftovers = fs::read_dir(directory.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "new"));
        assert_eq!(leftovers.count(), 0);
    }
    assert!(acknowledged > 0, "no writer ever wrote");
}

#[tokio::test]
async fn a_torn_file_is_an_error_that_names_it_and_hides_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryAssociations::open(directory.path()).unwrap();
    store.create(&fixture(7)).await.unwrap();
    store.create(&fixture(8)).await.unwrap();
    fs::write(directory.path().join("vast-7.json"), "{\"schema\":1").unwrap();
    let error = store.get(fixture(7).id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }));
    assert!(
        crate::report::chain(&error).contains("vast-7.json"),
        "{}",
        crate::report::chain(&error)
    );
    assert!(
        store.update(&fixture(7), &Version("1-x".to_owned())).await.is_err(),
        "it is never overwritten"
    );
    assert_eq!(store.list().await.unwrap().len(), 2);
    assert!(store.get(fixture(8).id).await.unwrap().is_some());
}
