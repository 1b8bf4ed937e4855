//! What is done to the files of a store by others than itself.

use std::fs;
use std::path::Path;

use super::*;
use crate::spec::TaskSpec;
use crate::store::{Change, StoredTask, TaskState};

mod crash;
mod damage;
mod forgetful;

const SEGMENT: &str = "tasks-00000001.log";

fn insert(id: &str) -> Commit {
    let at = runtime::Timestamp::from_second(1_800_000_000).unwrap();
    let task = StoredTask {
        spec: TaskSpec::cron(id, "@daily"),
        payload: None,
        owner: None,
        incarnation: 7,
        version: 1,
        anchor: at,
        updated_at: at,
        state: TaskState::default(),
        open: Vec::new(),
    };
    Commit { shard: 0, epoch: 1, change: Change::Insert(Box::new(task)) }
}

/// A folder with two acknowledged tasks, each in a batch of its own.
async fn folder_of_two() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = FileTaskStore::open(folder.path(), Retention::default()).unwrap();
    store.claim(&[Grant { shard: 0, epoch: 1 }]).await.unwrap();
    for id in ["a", "b"] {
        assert_eq!(store.commit(Arc::new([insert(id)])).await, [Ok(())]);
    }
    folder
}

fn tasks(folder: &Path) -> Result<usize, FileStoreError> {
    let store = FileTaskStore::open(folder, Retention::default())?;
    let state = store.shared.state();
    Ok(state.image.len())
}

/// Puts other bytes into a file, opens the folder, and puts everything back.
fn opened_with(folder: &Path, name: &str, bytes: &[u8]) -> Result<usize, FileStoreError> {
    let names = [SEGMENT, "synced"];
    let before = names.map(|name| fs::read(folder.join(name)).unwrap());
    fs::write(folder.join(name), bytes).unwrap();
    let found = tasks(folder);
    for (name, bytes) in names.iter().zip(before) {
        fs::write(folder.join(name), bytes).unwrap();
    }
    found
}

#[tokio::test]
async fn the_end_of_a_torn_write_is_cut_off_and_the_store_goes_on() {
    let folder = folder_of_two().await;
    let path = folder.path().join(SEGMENT);
    let whole = fs::read(&path).unwrap();
    for torn in [&[9, 0, 0][..], &[9, 0, 0, 0, 1, 2, 3, 4, 5], &[0; 4096], &[255; 100]] {
        let bytes = [&whole[..], torn].concat();
        assert_eq!(opened_with(folder.path(), SEGMENT, &bytes).unwrap(), 2);
    }
    fs::write(&path, [&whole[..], &[1, 2, 3]].concat()).unwrap();
    let store = FileTaskStore::open(folder.path(), Retention::default()).unwrap();
    assert_eq!(store.commit(Arc::new([insert("c")])).await, [Ok(())]);
    drop(store);
    assert_eq!(tasks(folder.path()).unwrap(), 3);
}

#[tokio::test]
async fn a_log_that_has_grown_is_brought_down_to_a_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let disk = Arc::new(Folder::take(folder.path()).unwrap());
        FileTaskStore::on(disk, Retention::default(), 400, true).unwrap()
    };
    let store = open();
    store.claim(&[Grant { shard: 0, epoch: 1 }]).await.unwrap();
    for number in 0..20 {
        assert_eq!(store.commit(Arc::new([insert(&format!("t{number}"))])).await, [Ok(())]);
    }
    drop(store);
    assert!(!folder.path().join(SEGMENT).exists(), "the first segment is superfluous");
    let store = open();
    assert_eq!(store.shared.state().image.len(), 20);
    let fenced = Commit { epoch: 0, ..insert("x") };
    assert!(matches!(store.commit(Arc::new([fenced])).await[..], [Err(StoreError::Fenced { .. })]));
}

#[tokio::test]
async fn one_has_the_folder_and_the_other_is_told_who() {
    let folder = tempfile::tempdir().unwrap();
    let _store = FileTaskStore::open(folder.path(), Retention::default()).unwrap();
    match FileTaskStore::open(folder.path(), Retention::default()) {
        Err(FileStoreError::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}
