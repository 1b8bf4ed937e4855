//! Files that others have changed: every byte of them, and every length.

use std::sync::Arc;

use super::crash::contents;
use super::forgetful::Forgetful;
use super::insert;
use crate::coordinator::Grant;
use crate::store::codec::Kind;
use crate::store::file::{FileStoreError, FileTaskStore};
use crate::store::{Commit, Retention, StoreError};

fn open(disk: &Forgetful, log_bytes_min: u64) -> Result<FileTaskStore, FileStoreError> {
    FileTaskStore::on(Arc::new(disk.clone()), Retention::default(), log_bytes_min, true)
}

fn found(disk: &Forgetful) -> Result<Vec<Kind>, FileStoreError> {
    open(disk, u64::MAX).map(|store| contents(&store.shared.state().image))
}

fn commit(store: &FileTaskStore, id: &str) -> Result<(), StoreError> {
    store.shared.commit(&[insert(id)]).remove(0)
}

/// A disk with a snapshot and two segments after it, of which the first is complete.
fn disk_of_all_files() -> Forgetful {
    let disk = Forgetful::new(1, None);
    let store = open(&disk, 400).unwrap();
    store.shared.claim(&[Grant { shard: 0, epoch: 1 }]).unwrap();
    for number in 0..5 {
        commit(&store, &format!("old-{number}")).unwrap();
    }
    let is_snapshot = |name: &String| name.ends_with(".snap");
    assert_eq!(disk.names().iter().filter(|name| is_snapshot(name)).count(), 1, "{:?}", disk.names());
    drop(store);
    // The next snapshot fails, so that the log goes on in another segment.
    let store = open(&disk, u64::MAX).unwrap();
    commit(&store, "new").unwrap();
    assert!(store.shared.state().log.roll().is_ok());
    commit(&store, "newest").unwrap();
    assert_eq!(disk.names().iter().filter(|name| name.ends_with(".log")).count(), 2, "{:?}", disk.names());
    disk
}

#[test]
fn promise_1_a_flipped_byte_anywhere_is_refused_by_file_and_place_or_does_no_harm() {
    let whole = disk_of_all_files();
    let expected = found(&whole.copy()).unwrap();
    for name in whole.names() {
        let bytes = whole.content(&name);
        for at in 0..bytes.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut bytes = bytes.clone();
                bytes[at] ^= bit;
                let disk = whole.copy();
                disk.put(&name, &bytes);
                match found(&disk) {
                    Ok(found) => assert!(found == expected && name == "synced", "{name}, byte {at}"),
                    Err(error) => {
                        let said = error.to_string();
                        let is_told = said.contains("damaged at byte") || said.contains("missing");
                        assert!(
                            is_told && (said.contains(&name) || name == "synced"),
                            "{name}, {at}: {said}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn promise_1_a_file_that_was_cut_off_anywhere_or_taken_away_is_refused() {
    let whole = disk_of_all_files();
    let expected = found(&whole.copy()).unwrap();
    for name in whole.names() {
        let bytes = whole.content(&name);
        let cut = (0..bytes.len()).map(Some).chain([None]);
        for len in cut {
            let disk = whole.copy();
            match len {
                Some(len) => disk.put(&name, &bytes[..len]),
                None => disk.take_away(&name),
            }
            match (found(&disk), name == "synced") {
                // It only tells a torn write from damage.
                (found, true) => assert!(found.unwrap() == expected),
                (Ok(_), false) => panic!("{name} cut to {len:?} is taken"),
                (Err(FileStoreError::Damaged { .. }), false) => assert!(len.is_some()),
                (Err(FileStoreError::Missing { path }), false) => {
                    assert!(len.is_none(), "{}", path.display())
                }
                (Err(other), false) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn what_is_refused_is_left_as_it_was() {
    let whole = disk_of_all_files();
    let name = whole.names().into_iter().find(|name| name.ends_with(".snap")).unwrap();
    let mut bytes = whole.content(&name);
    bytes[40] ^= 1;
    whole.put(&name, &bytes);
    let before: Vec<_> = whole.names().iter().map(|name| whole.content(name)).collect();
    assert!(found(&whole).is_err());
    assert_eq!(whole.names().iter().map(|name| whole.content(name)).collect::<Vec<_>>(), before);
}

#[test]
fn promise_10_a_full_disk_refuses_changes_and_takes_them_again_when_there_is_room() {
    let disk = Forgetful::new(1, None);
    let store = open(&disk, u64::MAX).unwrap();
    store.shared.claim(&[Grant { shard: 0, epoch: 1 }]).unwrap();
    commit(&store, "a").unwrap();
    disk.fail_one_in(1);
    for _ in 0..3 {
        match commit(&store, "b") {
            Err(StoreError::Engine(said)) => assert!(said.contains("/disk") && said.contains("no"), "{said}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.shared.state().image.len(), 1, "nothing has changed");
    }
    disk.fail_one_in(0);
    commit(&store, "b").unwrap();
    drop(store);
    disk.lose_power();
    assert_eq!(open(&disk, u64::MAX).unwrap().shared.state().image.len(), 2);
}

#[test]
fn a_disk_that_refuses_at_the_start_is_told_with_the_file() {
    let whole = disk_of_all_files();
    whole.fail_one_in(1);
    match found(&whole) {
        Err(error @ FileStoreError::Io { .. }) => assert!(error.to_string().contains("/disk"), "{error}"),
        other => panic!("{other:?}"),
    }
    whole.fail_one_in(0);
    assert!(found(&whole).is_ok(), "and harms nothing");
}

#[test]
fn a_batch_that_is_longer_than_a_frame_is_taken_whole() {
    let disk = Forgetful::new(1, None);
    let store = open(&disk, u64::MAX).unwrap();
    store.shared.claim(&[Grant { shard: 0, epoch: 1 }]).unwrap();
    let payload = serde_json::Value::String("x".repeat(60_000));
    let commits: Vec<Commit> = (0..400)
        .map(|number| {
            let mut commit = insert(&format!("t{number}"));
            if let crate::store::Change::Insert(task) = &mut commit.change {
                task.spec.payload = payload.clone();
            }
            commit
        })
        .collect();
    assert!(store.shared.commit(&commits).iter().all(Result::is_ok));
    drop(store);
    disk.lose_power();
    let store = open(&disk, u64::MAX).unwrap();
    assert_eq!(store.shared.state().image.len(), 400);
    let more: Vec<Commit> = commits
        .into_iter()
        .map(|mut commit| {
            if let crate::store::Change::Insert(task) = &mut commit.change {
                task.spec.id.push('x');
            }
            commit
        })
        .collect();
    // Of one that fails after its first frame nothing is there.
    disk.power_fails_after(1);
    assert!(store.shared.commit(&more).iter().all(Result::is_err));
    assert_eq!(store.shared.state().image.len(), 400);
    disk.answer_again();
    assert_eq!(commit(&store, "one"), Ok(()));
    drop(store);
    disk.lose_power();
    assert_eq!(open(&disk, u64::MAX).unwrap().shared.state().image.len(), 401);
}
