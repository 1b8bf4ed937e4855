//! The target folder, outside of the checkout and shared by all checkouts of this user.
//!
//! A fresh clone then compiles only the workspace itself and none of its dependencies. Cargo tells a stale
//! artifact by the age of its sources and takes two checkouts of one workspace for the same packages, so it
//! would hand one checkout what it built for the other. Therefore the folder notes which checkout it was
//! last used for, and a change of checkout removes what was built from the workspace's own sources.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// A target folder, and the lock that keeps other checkouts out of it while this one builds.
pub(super) struct Target {
    path: PathBuf,
    /// Released when dropped, and by the system when the process ends or becomes another program.
    _lock: Option<File>,
}

impl Target {
    /// The folder that the user's own settings name, or else the shared one.
    pub(super) fn claim(root: &Path, metadata: &Value) -> anyhow::Result<Self> {
        let set = metadata["target_directory"].as_str().context("`cargo metadata` names no target folder")?;
        if Path::new(set) != root.join("target") {
            return Ok(Self { path: set.into(), _lock: None });
        }
        let shared = shared_folder().context("no cache folder").and_then(|path| {
            let lock = claim_shared(&path, root, || clean_members(root, &path, metadata))?;
            Ok(Self { path, _lock: Some(lock) })
        });
        // Not every account has a home folder that it may write to.
        Ok(shared.unwrap_or_else(|error| {
            eprintln!("xtask: building in `target/`, since the shared folder cannot be used: {error:#}");
            Self { path: set.into(), _lock: None }
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// `gantry/target` in the cache folder of the user, where there is one.
fn shared_folder() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA"));
    let cache = cache.or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("gantry").join("target"))
}

/// Holds the folder for this checkout: many commands of one checkout at a time, never of two.
fn claim_shared(
    folder: &Path,
    checkout: &Path,
    clean: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<File> {
    fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
    let lock = File::create(folder.join("checkout.lock")).context("open the lock of the target folder")?;
    let note = folder.join("checkout");
    let checkout = checkout.to_string_lossy();
    loop {
        lock.lock_shared().context("lock the target folder")?;
        if fs::read_to_string(&note).is_ok_and(|noted| noted == checkout) {
            return Ok(lock);
        }
        lock.unlock().context("unlock the target folder")?;
        if lock.try_lock().is_err() {
            eprintln!("xtask: waiting for another checkout that builds in {}", folder.display());
            lock.lock().context("lock the target folder")?;
        }
        clean()?;
        fs::write(&note, &*checkout).with_context(|| format!("write `{}`", note.display()))?;
        // Between this and the shared lock another checkout may step in: look again.
        lock.unlock().context("unlock the target folder")?;
    }
}

/// Removes what was built from the packages of the workspace, and keeps its dependencies.
fn clean_members(root: &Path, target: &Path, metadata: &Value) -> anyhow::Result<()> {
    let packages = metadata["packages"].as_array().map_or(&[] as &[_], Vec::as_slice);
    for profile in ["dev", "release", "full"] {
        let mut command = Command::new(super::cargo_program());
        command.current_dir(root).args(["clean", "--quiet", "--profile", profile]);
        command.arg("--target-dir").arg(target);
        for package in packages {
            command.args(["--package", package["name"].as_str().context("a package without a name")?]);
        }
        let status = command.stdin(Stdio::null()).status().context("start `cargo clean`")?;
        if !status.success() {
            bail!("`cargo clean` of the workspace's own packages failed ({status})");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_change_of_checkout_cleans_once() {
        let folder = std::env::temp_dir().join(format!("gantry-xtask-target-{}", std::process::id()));
        let cleaned = Cell::new(0);
        let claim = |checkout: &str| {
            claim_shared(&folder, Path::new(checkout), || {
                cleaned.set(cleaned.get() + 1);
                Ok(())
            })
        };
        for (checkout, expected) in [("/a", 1), ("/a", 1), ("/b", 2), ("/a", 3)] {
            drop(claim(checkout).unwrap());
            assert_eq!(cleaned.get(), expected, "{checkout}");
        }
        // Two commands of one checkout at a time.
        let first = claim("/a").unwrap();
        drop((claim("/a").unwrap(), first));
        fs::remove_dir_all(&folder).unwrap();
    }
}
