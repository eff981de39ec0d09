//! The demo's story, step by step. A step that does not end as expected is an error.

use std::io::{self, Write};

use http::{HeaderMap, StatusCode};
use reqwest::{Client, Method, Request, Url};

use super::stage::Stage;
use crate::cli::failure::Failure;
use crate::ledger::node::NodeSetupError;
use crate::nano::Raw;
use crate::outbound;
use crate::payment::Mechanism;
use crate::vault::{Vault, VaultError};
use crate::wallet::{Paid, Wallet, WalletError, WalletOptions, WalletSetupError};
use crate::x402::{self, NanoOffers, SettlementResponse};

/// The most that the demo's wallet pays for one request, in raw: 0.01 XNO.
const MAX: Raw = Raw::new(10_000_000_000_000_000_000_000_000_000);

/// Why a step did not end as expected.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoryError {
    #[error("{step}: the status is {found}, not {expected}")]
    Status { step: &'static str, expected: StatusCode, found: StatusCode },
    #[error("{step}: {what} is missing")]
    Missing { step: &'static str, what: &'static str },
    #[error("{step}: expected {expected}, found {found}")]
    Value { step: &'static str, expected: String, found: String },
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error(transparent)]
    Setup(#[from] WalletSetupError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Nodes(#[from] NodeSetupError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("no answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("an envelope cannot be read: {0}")]
    Envelope(#[from] x402::Malformed),
    #[error("not an address: {0}")]
    Url(#[from] url::ParseError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl From<StoryError> for Failure {
    fn from(error: StoryError) -> Self {
        let said = error.to_string();
        if let StoryError::Output(error) = error { Self::Output(error) } else { Self::Demo(said) }
    }
}

/// Shows every step on `stage`, in order.
pub(super) async fn tell(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    unpaid(stage, out).await?;
    pays(stage, out, "2. Paid with nanoTxn", Mechanism::NanoTxn).await?;
    pays(stage, out, "3. Paid with nanoSignature", Mechanism::NanoSignature).await?;
    many_uses(stage, out).await?;
    replay(stage, out).await?;
    upstream_fails(stage, out).await
}

fn client() -> Result<Client, StoryError> {
    Ok(outbound::http(&[])?.build()?)
}

async fn unpaid(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    let step = "1. Unpaid";
    writeln!(out, "{step}: GET /v1/quote/XNO")?;
    let response = client()?.get(url(stage, "/v1/quote/XNO")?).send().await?;
    expect(step, StatusCode::PAYMENT_REQUIRED, response.status())?;
    let offers = bill(step, response.headers())?;
    writeln!(out, "   402 Payment Required, and how to pay it:")?;
    for offer in &offers.offers {
        let by = match offer.ask {
            x402::ProofRequest::NanoTxn { .. } => "nanoTxn: sign a block, the gateway sends it ",
            x402::ProofRequest::NanoSignature { .. } => "nanoSignature: send it, sign its hash       ",
            x402::ProofRequest::NanoSession(_) => "nanoSession: send exactly this, show its hash",
        };
        writeln!(out, "   {by}  {}  to {}", offer.amount.xno(), offer.pay_to)?;
    }
    writeln!(out)?;
    Ok(())
}

async fn pays(
    stage: &Stage,
    out: &mut impl Write,
    step: &'static str,
    mechanism: Mechanism,
) -> Result<(), StoryError> {
    writeln!(out, "{step}: GET /v1/quote/XNO")?;
    let wallet = wallet(stage, Some(mechanism))?;
    let paid = wallet.request(get(stage, "/v1/quote/XNO")?).await?;
    let paid = served(step, out, paid, true).await?;
    drop(paid);
    writeln!(out)?;
    Ok(())
}

async fn many_uses(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    let step = "4. One payment, five requests";
    writeln!(out, "{step}: GET /v1/search/nano")?;
    let wallet = wallet(stage, None)?;
    let first = wallet.request(get(stage, "/v1/search/nano")?).await?;
    let mut headers = served(step, out, first, true).await?;
    let token = text(step, &headers, "payment-capability")?;
    let (http, address) = (client()?, url(stage, "/v1/search/nano")?);
    for left in (0..4).rev() {
        let response = http.get(address.clone()).header("PAYMENT-CAPABILITY", &token).send().await?;
        expect(step, StatusCode::OK, response.status())?;
        headers = response.headers().clone();
        let now = remaining(&text(step, &headers, "payment-capability")?);
        same(step, left.to_string(), now)?;
        writeln!(out, "   200 with the capability, no payment: {left} left")?;
    }
    let response = http.get(address).header("PAYMENT-CAPABILITY", &token).send().await?;
    expect(step, StatusCode::PAYMENT_REQUIRED, response.status())?;
    let offers = bill(step, response.headers())?;
    same(step, "CAPABILITY_EXHAUSTED".to_owned(), offers.error.unwrap_or_default())?;
    writeln!(out, "   402 CAPABILITY_EXHAUSTED: the sixth has to be paid again\n")?;
    Ok(())
}

async fn replay(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    let step = "5. The same payment again";
    writeln!(out, "{step}: GET /v1/quote/XNO")?;
    let paid = wallet(stage, Some(Mechanism::NanoTxn))?.request(get(stage, "/v1/quote/XNO")?).await?;
    expect(step, StatusCode::OK, paid.response.status())?;
    writeln!(out, "   200: the payment is good for this request")?;
    // Without the wallet, which would not show one payment twice.
    let proof = paid.proof.as_ref().ok_or(StoryError::Missing { step, what: "the payment" })?;
    let address = url(stage, "/v1/quote/XNO")?;
    let again = client()?.get(address).header("PAYMENT-SIGNATURE", proof.header()).send().await?;
    expect(step, StatusCode::PAYMENT_REQUIRED, again.status())?;
    let refused = bill(step, again.headers())?.error.unwrap_or_default();
    same(step, "DUPLICATE_BLOCK_HASH".to_owned(), refused)?;
    writeln!(out, "   402 DUPLICATE_BLOCK_HASH: the payment was used already\n")?;
    Ok(())
}

async fn upstream_fails(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    let step = "6. The upstream fails";
    writeln!(out, "{step}: GET /v1/flaky")?;
    let wallet = wallet(stage, None)?;
    let failed = wallet.request(get(stage, "/v1/flaky")?).await?;
    expect(step, StatusCode::INTERNAL_SERVER_ERROR, failed.response.status())?;
    let payment = failed.payment().ok_or(StoryError::Missing { step, what: "the payment" })?;
    let left = remaining(&text(step, failed.response.headers(), "payment-capability")?);
    same(step, "1".to_owned(), left)?;
    writeln!(out, "   paid {} with block {}", payment.amount.xno(), payment.hash)?;
    writeln!(out, "   500 from the upstream: it is not charged, 1 left")?;
    let again = wallet.request(get(stage, "/v1/flaky")?).await?;
    served(step, out, again, false).await?;
    writeln!(out)?;
    Ok(())
}

/// Expects status 200, and a payment if it `costs` something. Prints the answer; gives its headers.
async fn served(
    step: &'static str,
    out: &mut impl Write,
    paid: Paid,
    costs: bool,
) -> Result<HeaderMap, StoryError> {
    expect(step, StatusCode::OK, paid.response.status())?;
    same(step, costs.to_string(), paid.payment().is_some().to_string())?;
    let headers = paid.response.headers().clone();
    if let Some(payment) = paid.payment() {
        writeln!(out, "   paid {} with block {}", payment.amount.xno(), payment.hash)?;
        let receipt = SettlementResponse::from_header(text(step, &headers, "payment-response")?)?;
        let settled = matches!(receipt.outcome, x402::SettlementOutcome::Settled { transaction, .. } if transaction == payment.hash);
        same(step, "true".to_owned(), settled.to_string())?;
    } else {
        writeln!(out, "   the earlier payment covers it, nothing is paid")?;
    }
    let left = remaining(&text(step, &headers, "payment-capability")?);
    write!(out, "   200, {left} left: {}", paid.response.text().await?)?;
    Ok(headers)
}

fn wallet(stage: &Stage, mechanism: Option<Mechanism>) -> Result<Wallet, StoryError> {
    let vault = Vault::open(&stage.seed_file())?;
    let nodes = stage.network.client()?;
    let work = stage.network.work(&nodes);
    let thresholds = Some(stage.network.thresholds());
    let options = WalletOptions { mechanism, thresholds, ..WalletOptions::up_to(MAX) };
    Ok(Wallet::new(vault, 0, nodes, work, options)?)
}

fn url(stage: &Stage, path: &str) -> Result<Url, StoryError> {
    Ok(Url::parse(&format!("{}{path}", stage.gateway))?)
}

fn get(stage: &Stage, path: &str) -> Result<Request, StoryError> {
    Ok(Request::new(Method::GET, url(stage, path)?))
}

fn bill(step: &'static str, headers: &HeaderMap) -> Result<NanoOffers, StoryError> {
    Ok(NanoOffers::from_header(text(step, headers, "payment-required")?)?)
}

fn text(step: &'static str, headers: &HeaderMap, name: &'static str) -> Result<String, StoryError> {
    let value = headers.get(name).and_then(|it| it.to_str().ok());
    value.map(str::to_owned).ok_or(StoryError::Missing { step, what: name })
}

/// The `remaining` of a `PAYMENT-CAPABILITY`.
fn remaining(capability: &str) -> String {
    let mut fields = capability.split(';').map(str::trim);
    fields.find_map(|it| it.strip_prefix("remaining=")).unwrap_or_default().to_owned()
}

fn expect(step: &'static str, expected: StatusCode, found: StatusCode) -> Result<(), StoryError> {
    if expected == found { Ok(()) } else { Err(StoryError::Status { step, expected, found }) }
}

fn same(step: &'static str, expected: String, found: String) -> Result<(), StoryError> {
    if expected == found { Ok(()) } else { Err(StoryError::Value { step, expected, found }) }
}
