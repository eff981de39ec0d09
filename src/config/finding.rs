//! What is wrong with a file, or doubtful about it: where, what, and what to do.

use std::fmt;

use serde::Serialize;

/// A place in the file.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Mark {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// One thing that has to be put right. Nothing in it comes from the environment: what a variable
/// holds may be a secret.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Fault {
    /// Where; nothing if the file as a whole is meant.
    #[serde(flatten)]
    pub mark: Option<Mark>,
    /// The key's path: `routes[2].price`. Empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// One thing that works but is hardly meant. It reads as a [`Fault`] does.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Warning(pub Fault);

/// Everything that is wrong with one file, in the order of its lines; at least one fault.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Faults {
    /// The file as the caller named it.
    pub file: String,
    pub faults: Vec<Fault>,
}

impl Faults {
    pub(super) fn new(file: &str, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.mark);
        Self { file: file.to_owned(), faults }
    }
}

impl Fault {
    /// As a compiler would print it, for the file called `file`.
    pub(super) fn print(&self, file: &str, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(file)?;
        if let Some(Mark { line, column }) = self.mark {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {kind}")?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl Warning {
    /// The warning as a line (and a hint) about `file`.
    #[must_use]
    pub fn about<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| self.0.print(file, "warning: ", f))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            fault.print(&self.file, "", f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
