//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::tokens::TokenCommand;

/// Runs plugins, carries events between them, schedules tasks, and is managed over HTTP.
///
/// Settings come from built-in defaults, the configuration file, the environment and these flags; the later
/// of two prevails. HTTP_PORT, HTTP_HOST, LOG_LEVEL and APP_ENV are short for the settings that they
/// name; every other setting is GANTRY__SECTION__KEY.
#[derive(Debug, Parser)]
#[command(name = "gantry-server", version)]
pub(crate) struct Flags {
    /// The configuration file. Without this flag, `gantry.toml` of the working folder is read if it is there.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Says everything that is wrong with the configuration, or that nothing is, and ends without starting.
    #[arg(long)]
    pub(crate) check_config: bool,

    /// Where the server keeps what has to survive a restart.
    #[arg(long, value_name = "FOLDER", global = true)]
    pub(crate) data_dir: Option<PathBuf>,

    /// The port of the management API; 0 takes a free one, which is printed.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,

    /// Any setting, such as `--set manager.auto_load=true`. May be given more than once.
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    pub(crate) set: Vec<String>,

    /// What to do instead of serving.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What can be done instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes, lists and revokes API tokens, in the data folder, whether or not a server runs.
    #[command(subcommand)]
    Token(TokenCommand),
}

/// The key and the value of a `--set`.
pub(crate) fn setting(text: &str) -> Result<(&str, &str), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err("the key is empty or has an empty part");
    }
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn settings_have_a_key_and_a_value() {
        assert_eq!(setting("a.b=c=d"), Ok(("a.b", "c=d")));
        for text in ["a", "=x", "a..b=1", ".a=1"] {
            assert!(setting(text).is_err(), "{text}");
        }
    }
}
