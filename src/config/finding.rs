//! Faults and warnings about a configuration file: where, what is wrong, and what to do.

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

/// One thing that has to be corrected. It never contains a value from the environment, which may
/// be a secret.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Fault {
    /// Where; `None` if it concerns the file as a whole.
    #[serde(flatten)]
    pub mark: Option<Mark>,
    /// The key's path: `routes[2].price`. Empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// One thing that works but is probably a mistake. It reads like a [`Fault`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Warning(pub Fault);

/// Every fault of one file, in the order of its lines; at least one.
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
    /// An empty `hint` stands for none.
    pub(super) fn new(mark: Option<Mark>, key: &str, message: impl fmt::Display, hint: &str) -> Self {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Self { mark, key: key.to_owned(), message: message.to_string(), hint }
    }

    /// Prints the fault as a compiler would, for the file called `file`.
    fn print(&self, file: &str, kind: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
