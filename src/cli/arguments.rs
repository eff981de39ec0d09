//! Arguments that more than one command takes.

use std::path::{Path, PathBuf};

use clap::Args;
use http::{HeaderName, HeaderValue};

use crate::config::{Config, Faults, Reading};

/// Which configuration, and what its variables are.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The configuration
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        env = "FAREGATE_CONFIG",
        default_value = "/etc/faregate/faregate.yaml"
    )]
    file: PathBuf,
    /// A file of NAME=value lines for the variables in the configuration that the environment does not have, such as
    /// the unit's `EnvironmentFile=`
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl From<PathBuf> for ConfigArgs {
    /// This file, with the variables of the environment alone.
    fn from(file: PathBuf) -> Self {
        Self { file, env_file: None }
    }
}

impl ConfigArgs {
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Reads the configuration and the files that it names.
    pub(super) fn load(&self) -> Result<Config, Faults> {
        self.load_by(false)
    }

    /// Reads the configuration; if this is `offline`, no other file but that of the variables.
    pub(super) fn load_by(&self, offline: bool) -> Result<Config, Faults> {
        Config::load_by(&self.file, &Reading { env_file: self.env_file.clone(), offline })
    }
}

/// A header of a request, `Name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write a header as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value =
        value.trim().parse().map_err(|_| "the value has a character that is not allowed in a header")?;
    Ok((name, value))
}
