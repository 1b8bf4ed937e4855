//! The checkout, and how programs are started in it.

mod target;
mod version;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// The checkout that xtask works on, with its target folder held for it until this value is dropped.
pub(crate) struct Workspace {
    root: PathBuf,
    metadata: Value,
    target: target::Target,
}

impl Workspace {
    /// Finds the checkout, checks the compiler, and claims the target folder.
    pub(crate) fn open() -> anyhow::Result<Self> {
        version::check()?;
        let root = root()?;
        let metadata = metadata_of(&root, &["--no-deps"])?;
        let target = target::Target::claim(&root, &metadata)?;
        Ok(Self { root, metadata, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What `cargo metadata` says about the packages of the workspace.
    pub(crate) fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// What `cargo metadata` says with all dependencies resolved, given `more` of its options.
    pub(crate) fn resolved(&self, more: &[&str]) -> anyhow::Result<Value> {
        metadata_of(&self.root, more)
    }

    /// A command that runs in the root of the checkout.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// The `cargo` that started xtask, at work in the shared target folder. Every build goes through here:
    /// what all of them need in their environment is set here and nowhere else.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(cargo_program());
        command.args(arguments).env("CARGO_TARGET_DIR", self.target.path());
        // The build of etcd's client runs it. A platform that none is carried for looks on its PATH.
        if std::env::var_os("PROTOC").is_none()
            && let Ok(protoc) = protoc_bin_vendored::protoc_bin_path()
        {
            command.env("PROTOC", protoc);
        }
        // A fresh clone never builds a second time: what makes that faster only costs time and space.
        if std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command
    }

    /// Runs `cargo` with its output shown, and fails where it fails.
    pub(crate) fn run_cargo(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(&mut self.cargo(arguments))
    }

    /// Builds one program in release mode where it is stale, and says where it lies.
    pub(crate) fn build_release(&self, package: &str, program: &str) -> anyhow::Result<PathBuf> {
        self.build(package, program, self.cargo(&["build", "--release"]))
    }

    /// As [`Self::build_release`] with no folder of this machine inside of the program, where a panic's
    /// message would show it and no two machines would build the same.
    pub(crate) fn build_for_others(&self, package: &str, program: &str) -> anyhow::Result<PathBuf> {
        // A profile of its own, since other flags would make cargo build everything anew each time.
        let mut command = self.cargo(&["build", "--profile", "dist"]);
        let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
        for (folder, name) in [(home.as_deref(), "/cargo"), (Some(&*self.root), "/gantry")] {
            if let Some(folder) = folder {
                flags += &format!(" --remap-path-prefix={}={name}", folder.display());
            }
        }
        command.env("RUSTFLAGS", flags.trim_start());
        self.build(package, program, command)
    }

    fn build(&self, package: &str, program: &str, mut command: Command) -> anyhow::Result<PathBuf> {
        eprintln!("xtask: building {program} in release mode");
        command.args(["--package", package, "--bin", program, "--message-format=json-render-diagnostics"]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
        if !output.status.success() {
            bail!("building `{program}` failed");
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let messages = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut programs = messages.filter(|message| message["target"]["name"] == program);
        let path = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
        path.with_context(|| format!("cargo built no program `{program}`"))
    }
}

/// Runs a command with its output shown, and fails where it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = show(command);
    eprintln!("xtask: {shown}");
    let status = command.status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Replaces xtask by this program, so that signals reach it and its exit code is the caller's without any
/// forwarding; where the system has no such call, waits for it and hands its code on.
pub(crate) fn become_program(mut command: Command) -> anyhow::Result<ExitCode> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        let error = command.exec();
        Err(error).with_context(|| format!("start `{}`", show(&command)))
    }
    #[cfg(not(unix))]
    wait_for_program(&mut command)
}

/// Runs a program to its end and hands its exit code on.
pub(crate) fn wait_for_program(command: &mut Command) -> anyhow::Result<ExitCode> {
    let status = command.status().with_context(|| format!("start `{}`", show(command)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A command as one would type it, without the folder of the program.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_stem().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The folder above this package: as the cargo that started us says, or where we were compiled.
fn root() -> anyhow::Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&here).parent().context("find the root of the workspace")?;
    root.canonicalize().with_context(|| format!("find the checkout at `{}`", root.display()))
}

fn metadata_of(root: &Path, more: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new(cargo_program());
    command.current_dir(root).args(["metadata", "--format-version", "1"]).args(more);
    let output = command.stderr(Stdio::inherit()).output().context("start `cargo metadata`")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed ({})", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read the output of `cargo metadata`")
}
