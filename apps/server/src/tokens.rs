//! `gantry-server token`: API tokens made, listed and taken back without a server that runs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use management::{ApiToken, Role, TokenFile, TokenRequest};
use runtime::{SystemClock, Timestamp};

/// Who makes tokens here, as the list of them has it.
const COMMAND_LINE: &str = "command line";

/// What is done with API tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Makes an API token and prints it: it is not shown again.
    Create {
        /// What it is for: 1 to 64 of `A-Za-z0-9._-`, and no other token's.
        #[arg(long)]
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: RoleName,
        /// How long it holds, such as `720h`; for good where nothing is said.
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<String>,
    },
    /// Lists the API tokens.
    List,
    /// Takes an API token back. A server that runs goes by it within a second.
    Revoke {
        /// Its id or its name.
        token: String,
    },
}

/// The roles, each of which may do what those before it may.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleName {
    /// Looks.
    Viewer,
    /// Runs things: tasks, events, starts and stops.
    Operator,
    /// Changes what is there: plugins, configuration, tokens.
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Self::Viewer,
            RoleName::Operator => Self::Operator,
            RoleName::Admin => Self::Admin,
        }
    }
}

/// Does it, and answers what is to be printed.
pub(crate) fn run(command: &TokenCommand, file: &Path) -> anyhow::Result<String> {
    let clock = SystemClock::shared();
    let tokens = TokenFile::open(file, clock.clone()).context("read api tokens")?;
    match command {
        TokenCommand::Create { name, role, expires_in } => {
            let request =
                TokenRequest { name: name.clone(), role: (*role).into(), expires_in: expires_in.clone() };
            let new = tokens.create_as(&request, COMMAND_LINE)?;
            Ok(new.secret.expose().to_owned())
        }
        TokenCommand::List => Ok(table(&tokens.list(), clock.now())),
        TokenCommand::Revoke { token } => {
            let found = tokens.list().into_iter().find(|known| known.id == *token || known.name == *token);
            let Some(found) = found else { bail!("there is no token `{token}`") };
            tokens.revoke(&found.id).context("write api tokens")?;
            Ok(format!("revoked {} {}", found.id, found.name))
        }
    }
}

fn table(tokens: &[ApiToken], now: Timestamp) -> String {
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or_default().max(4);
    let mut text = format!("{:16}  {:width$}  {:8}  {:20}  created by", "id", "name", "role", "expires");
    for token in tokens {
        let expires = match token.expires_at {
            None => "never".to_owned(),
            Some(end) if end <= now => "expired".to_owned(),
            Some(end) => format!("{end:.0}"),
        };
        let ApiToken { id, name, role, created_by, .. } = token;
        let _ = write!(text, "\n{id:16}  {name:width$}  {:8}  {expires:20}  {created_by}", role.as_str());
    }
    text
}
