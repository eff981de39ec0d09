//! The head of a request, as far as a price may depend on it.

use http::HeaderMap;

use super::host::RequestHost;
use super::request::CanonicalTarget;

/// What the price table looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'r> {
    pub method: &'r str,
    /// `None` if the request names none.
    pub host: Option<&'r RequestHost>,
    pub target: &'r CanonicalTarget,
    /// `None` if they are not known, as those of the request that a preflight prepares: then no condition
    /// on them is met.
    pub headers: Option<&'r HeaderMap>,
}

impl<'r> RequestHead<'r> {
    /// A head with a method and a target alone.
    #[must_use]
    pub const fn new(method: &'r str, target: &'r CanonicalTarget) -> Self {
        Self { method, host: None, target, headers: None }
    }
}
