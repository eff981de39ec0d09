//! The HTTP client by which an authority is called.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;

use crate::outbound;

/// How long one call may take, and connecting.
const CALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer that is read: a directory, a problem, a chain of certificates.
const LONGEST: usize = 1 << 20;

type Fault = Box<dyn StdError + Send + Sync>;

/// A client that trusts the authorities that browsers trust, and those of the configuration.
pub(super) struct Client(reqwest::Client);

impl Client {
    /// # Errors
    /// One of `authorities` is not a certificate of an authority.
    pub(super) fn new(authorities: &[CertificateDer<'static>]) -> Result<Self, Fault> {
        let client = outbound::http(authorities)?.timeout(CALL).connect_timeout(CONNECT).build()?;
        Ok(Self(client))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move { call(client, request).await.map_err(Error::Other) })
    }
}

async fn call(client: reqwest::Client, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Fault> {
    let (head, body) = request.into_parts();
    // The body of a request can be had as bytes only by way of an answer.
    let body = BytesResponse::from(Response::new(body)).body.into_bytes().await?;
    let called = client.request(head.method, head.uri.to_string()).headers(head.headers).body(body).send();
    // The error alone does not say why.
    let mut answer = called.await.map_err(|error| Fault::from(outbound::chain(&error)))?;
    let mut read = BytesMut::new();
    while let Some(part) = answer.chunk().await? {
        if read.len().saturating_add(part.len()) > LONGEST {
            return Err(Fault::from("the answer is longer than 1 MiB"));
        }
        read.extend_from_slice(&part);
    }
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    let (parts, ()) = response.into_parts();
    Ok(BytesResponse { parts, body: Box::new(read.freeze()) })
}
