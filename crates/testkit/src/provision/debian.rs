//! Debian's packages, unpacked into the cache and not installed: an installed server would be started by the
//! system at once, on its default port, and would stay when the tests are long gone.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool::ASK;
use super::{Launch, Program, Provision, on_path, run_tool};

pub(super) fn find(provision: &Provision, program: Program) -> Result<(Launch, String), String> {
    let (group, packages): (&str, &[&str]) = match program {
        Program::RedisServer | Program::RedisCli => ("redis", &["redis-server", "redis-tools"]),
        Program::Etcd | Program::Etcdctl => ("etcd", &["etcd-server", "etcd-client"]),
        Program::Kcat => ("kcat", &["kcat"]),
        // Debian has no Kafka.
        Program::Kafka => return Err(String::new()),
    };
    let root = provision.once(&format!("debian-{group}"), |staging| fetch(provision, packages, staging))?;
    let file = root.join("usr/bin").join(program.name());
    if !file.is_file() {
        return Err(format!("the package in {} has no {program}", root.display()));
    }
    let libraries = std::env::join_paths(library_folders(&root)).map_err(|error| error.to_string())?;
    let origin = format!("Debian's packages ({})", file.display());
    Ok((Launch::local(file).environment("LD_LIBRARY_PATH", libraries), origin))
}

fn fetch(provision: &Provision, packages: &[&str], staging: &Path) -> Result<(), String> {
    let apt_get = on_path(&provision.path, "apt-get").ok_or("no apt-get on the PATH")?;
    let dpkg_deb = on_path(&provision.path, "dpkg-deb").ok_or("no dpkg-deb on the PATH")?;
    let lists = provision.cache.join("apt-lists");
    let fetch_with = |options: &[String]| {
        let ask = |words: &[&str]| {
            let mut command = Command::new(&apt_get);
            command
                .args(options)
                .args(words)
                .args(packages)
                .env("LC_ALL", "C")
                .env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        // The packages and what they need that this system has not.
        let plan = run_tool(ask(&["install", "-qq", "-y", "--no-install-recommends", "--print-uris"]), ASK)?;
        let mut command = Command::new(&apt_get);
        // Its sandbox user may not write into a folder of ours; saying so once is enough.
        command.args(options).args(["-o", "APT::Sandbox::User=root", "-qq", "download"]);
        command.args(packages_in(&plan)).current_dir(staging).env("LC_ALL", "C");
        run_tool(command, provision.fetch_time("the packages")?)
    };
    // The system's own lists first; where they are missing or too old, newer ones in a folder of our own.
    if fetch_with(&[]).is_err() {
        std::fs::create_dir_all(lists.join("partial")).map_err(|error| error.to_string())?;
        let own = ["-o".to_owned(), format!("Dir::State::Lists={}", lists.display())];
        let mut update = Command::new(&apt_get);
        update.args(&own).args(["-o", "APT::Sandbox::User=root", "-qq", "update"]).env("LC_ALL", "C");
        run_tool(update, provision.fetch_time("the packages")?)?;
        fetch_with(&own)?;
    }
    let archives = std::fs::read_dir(staging).map_err(|error| error.to_string())?;
    let archives: Vec<PathBuf> = archives.filter_map(|entry| Some(entry.ok()?.path())).collect();
    for archive in archives {
        let mut unpack = Command::new(&dpkg_deb);
        unpack.arg("--extract").arg(&archive).arg(staging);
        run_tool(unpack, provision.fetch_time("the packages")?)?;
        std::fs::remove_file(&archive).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The names of the packages in lines such as `'http://…/liblzf1_3.6-3_amd64.deb' liblzf1_3.6-3_amd64.deb 10192 …`.
fn packages_in(plan: &str) -> Vec<String> {
    let files = plan.lines().filter(|line| line.starts_with('\'')).filter_map(|line| line.split(' ').nth(1));
    files.filter_map(|file| file.split_once('_')).map(|(package, _)| package.to_owned()).collect()
}

/// Where the unpacked libraries lie, such as `usr/lib/x86_64-linux-gnu`.
fn library_folders(root: &Path) -> Vec<PathBuf> {
    let tops = [root.join("usr/lib"), root.join("lib")];
    let nested = tops.iter().filter_map(|top| std::fs::read_dir(top).ok()).flatten();
    let nested = nested.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    nested.chain(tops.iter().filter(|top| top.is_dir()).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_names_packages_by_their_files() {
        let plan = "Reading lists\n\
            'http://mirror/r/redis-tools_7.0.15-1%7edeb12u10_amd64.deb' redis-tools_5%3a7.0.15-1_amd64.deb 991988 \n\
            'http://mirror/l/liblzf1_3.6-3_amd64.deb' liblzf1_3.6-3_amd64.deb 10192 MD5Sum:698d\n";
        assert_eq!(packages_in(plan), ["redis-tools", "liblzf1"]);
    }
}
