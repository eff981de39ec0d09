//! Why a request has no price, and the bounds of what is believed.

/// The largest count that is believed of one request or answer. No model reads or writes as much.
pub const MAX_COUNT: u64 = 1_000_000_000;
/// The longest name of a model, in bytes.
pub const MAX_MODEL: usize = 256;
/// How many characters of a client's text an error message repeats.
const SHOWN: usize = 80;

/// Why a request cannot be priced.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoRate {
    #[error("this route is charged by what its JSON body asks for, and there is no body")]
    NoBody,
    #[error("the body is not JSON that every parser reads in the same way: {0}")]
    Json(String),
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("the key {0:?} could be read as `{1}`: write it exactly like that, or leave it out")]
    Key(String, String),
    #[error("`{0}` is not a whole number from 1 to {MAX_COUNT}")]
    Number(&'static str),
    #[error("`{0}` must be {1}")]
    Value(&'static str, &'static str),
    #[error("the model is not a text of 1 to {MAX_MODEL} bytes")]
    Model,
    #[error("the model {0:?} is not offered here")]
    NotOffered(String),
    #[error("the body names no model, and there is no rate for any other")]
    NoModel,
}

impl NoRate {
    /// There is no rate for this model.
    pub(super) fn model(model: Option<&str>) -> Self {
        model.map_or(Self::NoModel, |it| Self::NotOffered(shown(it)))
    }

    /// Whether the body can be read but asks for a model that is not sold.
    #[must_use]
    pub const fn is_not_offered(&self) -> bool {
        match self {
            Self::NotOffered(_) => true,
            Self::NoBody
            | Self::Json(_)
            | Self::NotAnObject
            | Self::Key(..)
            | Self::Number(_)
            | Self::Value(..)
            | Self::Model
            | Self::NoModel => false,
        }
    }
}

/// As much of a client's text as an error message repeats.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
