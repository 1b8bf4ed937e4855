use runtime::SystemClock;

use super::*;

fn open(path: &Path) -> TokenFile {
    TokenFile::open(path, SystemClock::shared()).unwrap()
}

fn create(tokens: &TokenFile, name: &str) -> NewToken {
    tokens.create(name, Role::Viewer, "test", None).unwrap()
}

#[tokio::test]
async fn promise_1_what_was_answered_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/tokens.json");
    let tokens = open(&path);
    let (kept, gone) = (create(&tokens, "kept"), create(&tokens, "gone"));
    tokens.revoke(&gone.token.id).unwrap().unwrap();
    assert_eq!(tokens.revoke(&gone.token.id).unwrap(), None);
    let again = open(&path);
    assert_eq!(again.list(), std::slice::from_ref(&kept.token));
    assert_eq!(again.verify(kept.secret.expose()), Ok(kept.token));
    assert!(again.verify(gone.secret.expose()).is_err());
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(kept.secret.expose()), "promise 9: only its hash is kept");
}

/// The command line changes the file while the server runs, and the server while the command line does.
#[tokio::test(start_paused = true)]
async fn what_another_process_changes_is_seen_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    let (server, command) = (open(&path), open(&path));
    let first = create(&server, "first");
    let second = create(&command, "second");
    assert!(server.verify(second.secret.expose()).is_err(), "not looked at yet");
    tokio::time::advance(LOOK_EACH).await;
    assert!(server.verify(second.secret.expose()).is_ok());
    command.revoke(&first.token.id).unwrap().unwrap();
    tokio::time::advance(LOOK_EACH).await;
    assert!(server.verify(first.secret.expose()).is_err());
    assert_eq!(server.list(), [second.token]);
    // A change that comes before the look does not undo the other's.
    let third = create(&command, "third");
    let fourth = create(&server, "fourth");
    assert_eq!(open(&path).list().len(), 3);
    assert!(server.verify(third.secret.expose()).is_ok() && server.verify(fourth.secret.expose()).is_ok());
}

#[tokio::test]
async fn two_that_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let tokens = TokenFile::open(path, SystemClock::shared()).unwrap();
                for n in 0..5 {
                    create(&tokens, &format!("{writer}-{n}"));
                }
            });
        }
    });
    assert_eq!(open(&path).list().len(), 20);
}

/// A crash while the new file is written leaves the old one.
#[tokio::test(start_paused = true)]
async fn a_half_written_file_is_never_read_and_a_damaged_one_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.json");
    let tokens = open(&path);
    let token = create(&tokens, "a");
    std::fs::write(path.with_extension("json.new"), "{\"version\": 1, \"tok").unwrap();
    assert!(open(&path).verify(token.secret.expose()).is_ok());
    create(&tokens, "b");
    let whole = std::fs::read_to_string(&path).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = TokenFile::open(&path, SystemClock::shared()).unwrap_err();
        assert!(error.to_string().contains("tokens.json"), "{error}");
        assert!(!error.to_string().contains("\"hash\""), "{error}");
    }
    // A server that runs goes by what it knew.
    tokio::time::advance(LOOK_EACH).await;
    assert!(tokens.verify(token.secret.expose()).is_ok());
    assert!(tokens.create("c", Role::Viewer, "x", None).is_err(), "and changes nothing");
    std::fs::write(&path, whole.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let error = TokenFile::open(&path, SystemClock::shared()).unwrap_err().to_string();
    assert!(error.contains("has version 2, and 1 is known"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_refuses_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be.
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let tokens =
        TokenFile::build(Some(blocked.join("tokens.json")), ById::new(), None, SystemClock::shared());
    assert!(matches!(tokens.create("a", Role::Viewer, "x", None), Err(TokenError::Io { .. })));
    assert!(tokens.tokens().is_empty());
}

#[tokio::test(start_paused = true)]
async fn promise_8_names_are_taken_once_and_room_is_bounded() {
    let clock = runtime::VirtualClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let tokens = TokenFile::in_memory(clock.clone());
    let end = "2026-01-02T00:00:00Z".parse().unwrap();
    tokens.create("a", Role::Viewer, "x", Some(end)).unwrap();
    assert!(matches!(tokens.create("a", Role::Viewer, "x", None), Err(TokenError::NameTaken(_))));
    for n in 1..TOKENS_MAX {
        tokens.create(&n.to_string(), Role::Viewer, "x", None).unwrap();
    }
    assert!(matches!(tokens.create("b", Role::Viewer, "x", None), Err(TokenError::Full)));
    clock.jump(jiff::SignedDuration::from_hours(24));
    tokens.check_room("a").unwrap();
    tokens.create("a", Role::Viewer, "x", None).unwrap();
    assert_eq!(tokens.list().len(), TOKENS_MAX);
}
