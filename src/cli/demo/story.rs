//! The demo's story, step by step. A step that does not end as expected is an error.

use std::io::{self, Write};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::{Client, Method, Request, Url};
use serde_json::{Value, json};

use super::stage::Stage;
use super::upstream::{INPUT, MODEL, OUTPUT};
use crate::cli::failure::Failure;
use crate::cli::words::counted;
use crate::ledger::node::NodeSetupError;
use crate::nano::Raw;
use crate::outbound;
use crate::payment::Mechanism;
use crate::vault::{Vault, VaultError};
use crate::wallet::{Capability, Paid, Wallet, WalletError, WalletOptions, WalletSetupError};
use crate::x402::{self, NanoOffers, SettlementResponse};

/// The most that the demo's wallet pays for one request, in raw: 0.01 XNO.
const MAX: Raw = Raw::new(10_000_000_000_000_000_000_000_000_000);

/// What a millionth of an XNO is, in raw: what a token costs for each XNO that a million cost.
const MILLIONTH: u128 = 1_000_000_000_000_000_000_000_000;
/// The most tokens that an answer may have, and the most that the last one of the story may have, which is too much.
const MAX_TOKENS: u32 = 50;
const TOO_MANY_TOKENS: u32 = 1000;
/// How often it is looked what is left in a purse, and the pause between two looks.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

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
    upstream_fails(stage, out).await?;
    tokens(stage, out).await
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

async fn tokens(stage: &Stage, out: &mut impl Write) -> Result<(), StoryError> {
    let step = "7. Tokens of a model, for what they cost";
    writeln!(out, "{step}: POST /v1/chat/completions")?;
    let missing = |what| StoryError::Missing { step, what };
    let wallet = wallet(stage, None)?;
    let first = wallet.request(ask(stage, "Hello.", MAX_TOKENS)?).await?;
    let payment = first.payment().ok_or(missing("the payment"))?;
    writeln!(out, "   paid {} with block {}: it is in a purse", payment.amount.xno(), payment.hash)?;
    let purse = first.capability.clone().ok_or(missing("the purse"))?;
    let left = completed(step, out, first, payment.amount).await?;
    let second = wallet.request(ask(stage, "How much do so many words cost?", MAX_TOKENS)?).await?;
    same(step, "false".to_owned(), second.payment().is_some().to_string())?;
    let left = completed(step, out, second, left).await?;
    // What it could cost is more than is left, so that the model is not asked.
    let told = format!("the purse has {left} raw left,");
    let mut said = String::new();
    // What an answer cost is taken when it has been sent, which may be a moment later.
    for _ in 0..LOOKS {
        said = refused(step, stage, &purse).await?;
        if said.contains(&told) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if !said.contains(&told) {
        return Err(StoryError::Value { step, expected: told, found: said });
    }
    writeln!(
        out,
        "   402 CAPABILITY_EXHAUSTED: {TOO_MANY_TOKENS} tokens could cost more than {}\n",
        left.xno()
    )?;
    Ok(())
}

/// Asks for more than is in the purse, and expects a bill. Gives what it says.
async fn refused(step: &'static str, stage: &Stage, purse: &Capability) -> Result<String, StoryError> {
    let mut request = ask(stage, "Tell me everything.", TOO_MANY_TOKENS)?;
    let token = HeaderValue::from_str(purse.token());
    let token = token.map_err(|_| StoryError::Missing { step, what: "the token" })?;
    request.headers_mut().insert("PAYMENT-CAPABILITY", token);
    let response = client()?.execute(request).await?;
    expect(step, StatusCode::PAYMENT_REQUIRED, response.status())?;
    let body: Value = response.json().await?;
    Ok(body.get("message").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Expects an answer of the model that is paid from a purse with so much in it. Prints what it cost; gives what is left.
async fn completed(
    step: &'static str,
    out: &mut impl Write,
    paid: Paid,
    before: Raw,
) -> Result<Raw, StoryError> {
    expect(step, StatusCode::OK, paid.response.status())?;
    let answer: Value = paid.response.json().await?;
    let count = |it| answer.pointer(it).and_then(Value::as_u64).unwrap_or_default();
    let (input, output) = (count("/usage/prompt_tokens"), count("/usage/completion_tokens"));
    let price = u128::from(input).saturating_mul(INPUT.into());
    let price = price.saturating_add(u128::from(output).saturating_mul(OUTPUT.into()));
    let cost = Raw::new(price.saturating_mul(MILLIONTH));
    let left = before.checked_sub(cost).unwrap_or(Raw::ZERO);
    let (input, cost, rest) = (counted(input, "token"), cost.xno(), left.xno());
    writeln!(out, "   200, {input} of input and {output} of output: it cost {cost}, {rest} left")?;
    Ok(left)
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

/// Asks the model.
fn ask(stage: &Stage, words: &str, most: u32) -> Result<Request, StoryError> {
    let body =
        json!({ "model": MODEL, "max_tokens": most, "messages": [{ "role": "user", "content": words }] });
    let mut request = Request::new(Method::POST, url(stage, "/v1/chat/completions")?);
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *request.body_mut() = Some(body.to_string().into());
    Ok(request)
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
