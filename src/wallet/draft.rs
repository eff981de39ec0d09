//! Builds a request, which is paid for when it is sent.

use http::{HeaderName, HeaderValue, Method};
use reqwest::{Body, IntoUrl, RequestBuilder};
use serde::Serialize;

use super::{Paid, Wallet, WalletError};

/// A request of a [`Wallet`]. Nothing is sent before [`Draft::send`].
#[derive(Debug)]
#[must_use = "nothing is sent before `send`"]
pub struct Draft<'w> {
    wallet: &'w Wallet,
    builder: RequestBuilder,
}

impl Wallet {
    /// A GET of `url`.
    pub fn get(&self, url: impl IntoUrl) -> Draft<'_> {
        self.draft(Method::GET, url)
    }

    /// A POST to `url`.
    pub fn post(&self, url: impl IntoUrl) -> Draft<'_> {
        self.draft(Method::POST, url)
    }

    /// A request of `method` to `url`.
    pub fn draft(&self, method: Method, url: impl IntoUrl) -> Draft<'_> {
        Draft { wallet: self, builder: self.http.request(method, url) }
    }
}

impl Draft<'_> {
    /// Adds a header.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.with(|builder| builder.header(name, value))
    }

    /// Adds `query` to the URL's query.
    pub fn query(self, query: &(impl Serialize + ?Sized)) -> Self {
        self.with(|builder| builder.query(query))
    }

    /// Sends `json` as the body.
    pub fn json(self, json: &(impl Serialize + ?Sized)) -> Self {
        self.with(|builder| builder.json(json))
    }

    /// Sends `body`. It cannot be a stream, because it may have to be sent twice.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.with(|builder| builder.body(body))
    }

    /// Changes the request in any other way that reqwest offers.
    pub fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self { builder: change(self.builder), ..self }
    }

    /// Sends the request and pays for it if the answer is a bill: [`Wallet::request`].
    ///
    /// # Errors
    /// [`WalletError::NoRequest`], if the parts do not make a request; else as [`Wallet::request`].
    pub async fn send(self) -> Result<Paid, WalletError> {
        let request =
            self.builder.build().map_err(|error| WalletError::NoRequest(error.without_url().to_string()))?;
        self.wallet.request(request).await
    }
}
