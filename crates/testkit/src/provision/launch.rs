//! How a program is started: as it is, or in a container.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a program that was found is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    program: PathBuf,
    before: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    container: Option<Container>,
}

/// A container that the program runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) docker: PathBuf,
    pub(crate) image: String,
}

impl Launch {
    pub(crate) fn local(program: PathBuf) -> Self {
        Self { program, before: Vec::new(), environment: Vec::new(), container: None }
    }

    pub(crate) fn boxed(program: &str, docker: PathBuf, image: &str) -> Self {
        let container = Some(Container { docker, image: image.to_owned() });
        Self { container, ..Self::local(program.into()) }
    }

    /// Arguments that stand before all others.
    pub(crate) fn before(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.before.extend(arguments.into_iter().map(Into::into));
        self
    }

    pub(crate) fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn container(&self) -> Option<&Container> {
        self.container.as_ref()
    }

    /// A command that runs the program with these arguments to its end: for tools. In a container it reaches
    /// the host's loopback and no files.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.build(&[], arguments)
    }

    /// A command that runs it as a server that works in `folder`, under this name where a container has one.
    pub(crate) fn server(&self, name: &str, folder: &Path, arguments: &[String]) -> Command {
        let shared = format!("{0}:{0}", folder.display());
        let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let user = format!("{}:{}", user.0, user.1);
        let options = ["--name", name, "--volume", &shared, "--user", &user, "--workdir"];
        let options: Vec<OsString> =
            options.iter().map(OsString::from).chain([folder.as_os_str().to_owned()]).collect();
        let mut command = self.build(&options, arguments);
        command.current_dir(folder);
        command
    }

    fn build(&self, options: &[OsString], arguments: &[impl AsRef<std::ffi::OsStr>]) -> Command {
        let mut command = match &self.container {
            None => {
                let mut command = Command::new(&self.program);
                command.envs(self.environment.iter().map(|(name, value)| (name, value)));
                command
            }
            Some(container) => {
                let mut command = Command::new(&container.docker);
                // On the host's network: the addresses that servers announce are then the same inside and
                // outside. The first process of the container is the server itself and gets the signals.
                command.args(["run", "--rm", "--interactive", "--network", "host"]).args(options);
                for (name, value) in &self.environment {
                    let mut setting = OsString::from(format!("{name}="));
                    setting.push(value);
                    command.arg("--env").arg(setting);
                }
                command.arg("--entrypoint").arg(&self.program).arg(&container.image);
                command
            }
        };
        command.args(&self.before).args(arguments);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_container_has_the_hosts_network_its_folder_and_the_users_id() {
        let launch = Launch::boxed("redis-server", "docker".into(), "redis:7").before(["--loglevel"]);
        let user = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        assert_eq!(
            shown(&launch.server("box-1", Path::new("/data"), &["notice".into()])),
            format!(
                "docker run --rm --interactive --network host --name box-1 --volume /data:/data --user {}:{} --workdir /data \
                 --entrypoint redis-server redis:7 --loglevel notice",
                user.0, user.1
            ),
        );
    }

    #[test]
    fn without_a_container_it_is_the_program_itself() {
        let launch = Launch::local("/bin/etcd".into()).environment("A", "b");
        let command = launch.server("x", Path::new("/"), &["--name".into(), "m1".into()]);
        assert_eq!(shown(&command), "/bin/etcd --name m1");
        assert_eq!(command.get_envs().count(), 1);
    }
}
