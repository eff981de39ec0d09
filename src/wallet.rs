//! The paying client: sends a request, pays what a 402 asks for it, and sends it again.
//!
//! ```no_run
//! use faregate::nano::Raw;
//! use faregate::wallet::{DayLimit, Wallet, WalletOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = WalletOptions {
//!     // Of all requests together, in any 24 hours, over restarts.
//!     per_day: Some(DayLimit { max: Raw::with_unit("1 XNO")?, file: Some("payer.spent".into()) }),
//!     // Of one request.
//!     ..WalletOptions::up_to(Raw::with_unit("0.01 XNO")?)
//! };
//! let wallet = Wallet::open("payer.seed".as_ref(), ["http://127.0.0.1:7076"], options)?;
//!
//! let mut paid = wallet.get("https://api.example.com/v1/quote/XNO").send().await?;
//! if let Some(payment) = paid.payment() {
//!     println!("{} for {}", payment.amount.xno(), payment.hash);
//! }
//! // An error says what was paid and bought before the answer broke off.
//! let answer = paid.bytes(1024 * 1024).await?;
//! println!("{}", String::from_utf8_lossy(&answer));
//! # Ok(())
//! # }
//! ```
//!
//! `draft` builds requests, `offer` reads bills and writes proofs, `chain` makes the account's blocks,
//! `held` keeps the capabilities that were bought, and `allowance` keeps what was spent in a day. Only
//! the last survives the process, if it has a file. Two rules always hold: nothing is signed above the
//! limits, and a request that was paid for is never paid for again.

mod allowance;
mod chain;
mod draft;
mod held;
mod offer;
mod outcome;
mod redirect;

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use reqwest::{Request, Response};
use tokio::sync::{Mutex, MutexGuard};

use crate::clock::Clock;
use crate::ledger::node::{Authorities, NodeClient, NodeEndpoint, read_authorities};
use crate::ledger::work::WorkSource;
use crate::nano::{Account, BlockHash, Raw, Signature, StateBlock, Threshold, Thresholds};
use crate::outbound;
use crate::payment::{Mechanism, Refusal};
use crate::vault::Vault;

pub use crate::payment::derived::{DeriveError, Restriction, Thumbprint};
pub use allowance::{AllowanceError, DayLimit};
pub use draft::Draft;
pub use held::Capability;
pub use offer::OfferError;
pub use outcome::{Paid, Payment, Proof, SoFar, WalletError, WalletSetupError};
pub use redirect::Redirect;

use allowance::Allowance;
use chain::PayerChain;
use held::{HeldCapabilities, RequestTarget};
use offer::{PayableBill, PayableEntry};

/// The hardest work that a bill or a node can ask for: eight times a send's on the main network. With
/// more, a client could compute for days.
const MAX_THRESHOLD: Threshold = Threshold(0xffff_ffff_0000_0000);

/// # Errors
/// [`WalletError::WorkTooHard`] beyond [`MAX_THRESHOLD`].
fn refuse_hard(asked: Threshold) -> Result<(), WalletError> {
    if asked > MAX_THRESHOLD { Err(WalletError::WorkTooHard { asked }) } else { Ok(()) }
}

/// How often one block is signed again after its challenge expired.
const MAX_RESIGNS: u32 = 3;

/// The most redirects that one request follows.
const MAX_REDIRECTS: u32 = 10;

/// The pause before a paid request is sent again, after its answer was lost.
const LOST_PAUSE: Duration = Duration::from_secs(1);

/// How long a gateway may take to accept a connection, and how long it may send nothing. It holds a
/// paid request while the network confirms the payment.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(120);

/// The default time limit of one call to a node.
pub const NODE_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings of a wallet.
#[derive(Clone, Debug)]
pub struct WalletOptions {
    /// The most that one request may cost, in raw.
    pub max: Raw,
    /// The most that all requests may cost in 24 hours; with `None`, only `max` limits.
    pub per_day: Option<DayLimit>,
    /// Pay by this mechanism only. With `None`, pay by the first entry of the bill that is understood.
    pub mechanism: Option<Mechanism>,
    /// The network's work thresholds. With `None`, a node is asked; if it does not know, the main
    /// network's apply.
    pub thresholds: Option<Thresholds>,
    /// How long to wait until one of the wallet's own blocks is confirmed.
    pub confirm_wait: Duration,
    /// How long to show the same proof again while the gateway says "not yet".
    pub settle_wait: Duration,
    /// Whether redirects are followed within one origin. Nothing is sent to another origin, and one
    /// request pays once, however many redirects it takes.
    pub follow: bool,
    /// A PEM file with authorities that vouch for gateways over TLS, beside those that browsers trust.
    /// [`Wallet::open`] trusts them for nodes too.
    pub ca_file: Option<PathBuf>,
}

impl WalletOptions {
    /// At most `max` raw per request; the default waits.
    #[must_use]
    pub const fn up_to(max: Raw) -> Self {
        Self {
            max,
            per_day: None,
            mechanism: None,
            thresholds: None,
            confirm_wait: Duration::from_secs(30),
            settle_wait: Duration::from_secs(120),
            follow: false,
            ca_file: None,
        }
    }

    fn authorities(&self) -> Result<Authorities, WalletSetupError> {
        let read = self.ca_file.as_deref().map(read_authorities).transpose();
        Ok(read.map_err(WalletSetupError::Authorities)?.unwrap_or_default())
    }
}

/// A paying client for one account. Share it: each block builds on the one before, so only one payment
/// is made at a time.
#[derive(Debug)]
pub struct Wallet {
    http: reqwest::Client,
    chain: PayerChain,
    options: WalletOptions,
    held: HeldCapabilities,
    allowance: Option<Allowance>,
    /// Locked while a payment is made. Holds the last block, which a node may not show yet.
    turn: Mutex<Option<StateBlock>>,
}

/// The result of a request that was sent without a payment.
enum FirstAnswer {
    Answered(Box<Paid>),
    Billed(Billed),
}

/// What a request is billed.
struct Billed {
    bill: PayableBill,
    /// The token of the purse that does not cover the request, to which what is paid can be added.
    purse: Option<HeaderValue>,
}

/// The result of a request that was sent with a proof or a capability.
enum Shown {
    Answered(Response),
    NotYet { waited: Duration },
    Lost(String),
}

const CAPABILITY: HeaderName = HeaderName::from_static("payment-capability");
const SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");

impl Wallet {
    /// A wallet that pays from the first account of the seed in `seed_file` (64 hexadecimal digits,
    /// mode 0600). `nodes` are URLs, asked in order; their query parameters are sent in the body of each
    /// call. Work comes from a node if it computes any, else from this machine's cores.
    ///
    /// # Errors
    /// [`WalletSetupError`].
    pub fn open<'u>(
        seed_file: &Path,
        nodes: impl IntoIterator<Item = &'u str>,
        options: WalletOptions,
    ) -> Result<Self, WalletSetupError> {
        let vault = Vault::open(seed_file)?;
        let authorities = options.authorities()?;
        let endpoint = |text: &str| {
            let url = text.parse().map_err(|error| WalletSetupError::Address(text.to_owned(), error))?;
            let endpoint = NodeEndpoint::from_url(url, NODE_TIMEOUT)?;
            Ok::<_, WalletSetupError>(endpoint.believing(Authorities::clone(&authorities)))
        };
        let endpoints: Result<Vec<_>, _> = nodes.into_iter().map(endpoint).collect();
        let nodes = NodeClient::new(endpoints?)?;
        let work = WorkSource::node_first(nodes.clone());
        Self::new(vault, 0, nodes, work, options)
    }

    /// A wallet that pays from the account at `index` of `vault`.
    ///
    /// # Errors
    /// [`WalletSetupError::Tls`], if TLS cannot be set up; [`WalletSetupError::Authorities`].
    pub fn new(
        vault: Vault,
        index: u32,
        nodes: NodeClient,
        work: WorkSource,
        options: WalletOptions,
    ) -> Result<Self, WalletSetupError> {
        let http = outbound::http(&options.authorities()?)
            .map_err(|error| WalletSetupError::Tls(error.to_string()))?
            .user_agent(concat!("faregate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE)
            // A capability must not be sent to the target of a redirect.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| WalletSetupError::Tls(cause(error)))?;
        let chain = PayerChain::new(vault, index, nodes, work, &options);
        let allowance = options.per_day.clone().map(|limit| Allowance::new(limit, Clock::system()));
        let held = HeldCapabilities::default();
        Ok(Self { http, chain, options, held, allowance, turn: Mutex::new(None) })
    }

    /// The account that pays.
    #[must_use]
    pub const fn account(&self) -> Account {
        self.chain.account()
    }

    /// Sends `request` and pays for it if the answer is a bill. A capability from an earlier payment is
    /// used first. Redirects are followed only with [`WalletOptions::follow`].
    ///
    /// # Errors
    /// [`WalletError`]. If [`WalletError::proof`] gives one, money may have moved: do not just repeat the
    /// request, it would be paid for again.
    pub async fn request(&self, request: Request) -> Result<Paid, WalletError> {
        let mut request = request;
        let mut so_far = SoFar::default();
        let mut hops = 0_u32;
        loop {
            let next = |paid: &Paid| redirect::next(&request, &paid.response).filter(|_| self.options.follow);
            let mut paid = match self.request_once(&request, so_far.proof.is_none()).await {
                Ok(paid) => paid,
                Err(error) if so_far.proof.is_none() => return Err(error),
                Err(error) => return Err(WalletError::AfterRedirect { error: Box::new(error), so_far }),
            };
            paid.proof = paid.proof.or(so_far.proof);
            paid.capability = paid.capability.or(so_far.capability.map(|it| *it));
            match next(&paid) {
                Some(following) if hops < MAX_REDIRECTS => request = following,
                Some(_) | None => return Ok(paid),
            }
            so_far = SoFar { proof: paid.proof, capability: paid.capability.map(Box::new) };
            hops = hops.saturating_add(1);
        }
    }

    /// One request without redirects. It is paid for only if it `may_pay`.
    async fn request_once(&self, request: &Request, may_pay: bool) -> Result<Paid, WalletError> {
        let place = RequestTarget::of(request);
        let mut billed = match self.ask(request, &place).await? {
            FirstAnswer::Answered(paid) => return Ok(*paid),
            FirstAnswer::Billed(_) if !may_pay => {
                return Err(WalletError::BilledAgain { to: request.url().path().to_owned() });
            }
            FirstAnswer::Billed(billed) => billed,
        };
        self.choose(&billed.bill)?;
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(_another_payment) => {
                let turn = self.turn.lock().await;
                // The other payment may have bought this too, and the bill may have expired.
                match self.ask(request, &place).await? {
                    FirstAnswer::Answered(paid) => return Ok(*paid),
                    FirstAnswer::Billed(fresh) => billed = fresh,
                }
                turn
            }
        };
        let entry = self.choose(&billed.bill)?;
        let purse = billed.purse.as_ref().filter(|_| entry.adds_to_purse());
        if let Some(allowance) = &self.allowance {
            allowance.allows(entry.amount()).await?;
        }
        self.pay((request, purse), &place, entry, turn).await
    }

    /// Sends a request with the capability that fits it, if any. A bill names its route, so a capability
    /// that was bought at another path of the route is found too.
    async fn ask(&self, request: &Request, place: &RequestTarget) -> Result<FirstAnswer, WalletError> {
        let mut token = self.held.for_place(place);
        let mut route = None;
        loop {
            let headers = token.as_ref().map(|token| (CAPABILITY, token));
            let response = match self.show(request, headers.as_slice(), Duration::ZERO).await? {
                Shown::Answered(response) => response,
                Shown::NotYet { waited } => {
                    return Err(unreachable_origin(place.origin(), format!("busy for {waited:?}")));
                }
                Shown::Lost(error) => return Err(unreachable_origin(place.origin(), error)),
            };
            if offer::status(&response) != StatusCode::PAYMENT_REQUIRED {
                // Its route is gone, unless the answer brings it along.
                if let Some(gone) = token.filter(|_| response.status() == StatusCode::GONE) {
                    self.held.forget(&gone);
                }
                let capability = self.held.note(place, route, response.headers());
                let paid = Paid { response, proof: None, capability };
                return Ok(FirstAnswer::Answered(Box::new(paid)));
            }
            let bill = offer::bill(response.headers())
                .map_err(|error| WalletError::NotAGateway { origin: place.origin().to_owned(), error })?;
            if let Some(refused) = token {
                if bill.adds_to_purse() {
                    // It is kept, whether this is paid or not: what is left pays for smaller requests.
                    return Ok(FirstAnswer::Billed(Billed { bill, purse: Some(refused) }));
                }
                self.held.forget(&refused);
            }
            route = bill.route();
            token = route.as_deref().and_then(|route| self.held.for_route(place, route));
            if token.is_none() {
                return Ok(FirstAnswer::Billed(Billed { bill, purse: None }));
            }
        }
    }

    /// The entry to pay by, if the limits allow its price.
    fn choose<'a>(&self, bill: &'a PayableBill) -> Result<&'a PayableEntry, WalletError> {
        let entry = bill.choose(self.options.mechanism).map_err(WalletError::NothingPayable)?;
        if entry.amount() > self.options.max {
            return Err(WalletError::TooExpensive { amount: entry.amount(), max: self.options.max });
        }
        entry.threshold.map_or(Ok(()), refuse_hard)?;
        Ok(entry)
    }

    /// Pays by `entry` and redeems the payment, which is added to `purse` if that is named. Money is spent only here.
    async fn pay(
        &self,
        (request, purse): (&Request, Option<&HeaderValue>),
        place: &RequestTarget,
        entry: &PayableEntry,
        mut turn: MutexGuard<'_, Option<StateBlock>>,
    ) -> Result<Paid, WalletError> {
        let block = self.chain.send(turn.as_ref(), entry).await?;
        // Before anybody gets the block: what cannot be proven must not be paid.
        let proof = self.proof(entry, &block).map_err(WalletError::Unwritable)?;
        if let Some(allowance) = &self.allowance {
            allowance.note(entry.amount(), block.hash()).await?;
        }
        let (mechanism, amount_raw) = (entry.mechanism, entry.amount());
        tracing::info!(block = %block.hash(), %amount_raw, %mechanism, "a payment is signed");
        match entry.mechanism {
            Mechanism::NanoSignature | Mechanism::NanoSession => {
                if let Err(error) = self.chain.publish_send(&block).await {
                    return Err(WalletError::NotSent { proof: Box::new(proof), error });
                }
                *turn = Some(block);
                drop(turn);
                self.redeem((request, purse), place, entry, &block, proof).await
            }
            Mechanism::NanoTxn => {
                let redeemed = self.redeem((request, purse), place, entry, &block, proof).await;
                // After a refusal the next payment may build on the same predecessor: at most one of the
                // two can be confirmed. Otherwise it waits until the node shows this block.
                let may_be_out = match &redeemed {
                    Ok(paid) => paid.payment().is_some_and(|payment| payment.acknowledged),
                    Err(error) => {
                        matches!(error, WalletError::Pending { .. } | WalletError::AnswerLost { .. })
                    }
                };
                *turn = if may_be_out { Some(block) } else { *turn };
                redeemed
            }
        }
    }

    /// Shows the proof until the gateway has decided. Whatever it says, no other block is made.
    async fn redeem(
        &self,
        (request, purse): (&Request, Option<&HeaderValue>),
        place: &RequestTarget,
        entry: &PayableEntry,
        block: &StateBlock,
        proof: Proof,
    ) -> Result<Paid, WalletError> {
        let (mut entry, mut proof) = (entry.clone(), Box::new(proof));
        let mut resigns = 0_u32;
        loop {
            let mut headers = vec![(SIGNATURE, proof.header())];
            headers.extend(purse.map(|token| (CAPABILITY, token)));
            let response = match self.show(request, &headers, self.options.settle_wait).await {
                Ok(Shown::Answered(response)) => response,
                Ok(Shown::NotYet { waited }) => return Err(WalletError::Pending { proof, waited }),
                Ok(Shown::Lost(error)) => return Err(WalletError::AnswerLost { proof, error }),
                Err(error) => return Err(WalletError::AnswerLost { proof, error: error.to_string() }),
            };
            if offer::status(&response) != StatusCode::PAYMENT_REQUIRED {
                proof.payment.acknowledged = offer::acknowledged(response.headers());
                let capability = self.held.note(place, entry.route(), response.headers());
                return Ok(Paid { response, proof: Some(proof), capability });
            }
            let reason = offer::reason(response.headers());
            let expired = reason.as_deref() == Some(Refusal::PaymentExpired.code());
            // The block was sent in time and shown too late: it is signed again, not paid again.
            let renewed = offer::bill(response.headers())
                .ok()
                .filter(|_| expired && resigns < MAX_RESIGNS)
                .and_then(|bill| bill.renewal_of(&entry))
                .and_then(|fresh| Some((self.proof(&fresh, block).ok()?, fresh)));
            match renewed {
                Some((signed_again, fresh)) => (*proof, entry) = (signed_again, fresh),
                None => {
                    let reason = reason.unwrap_or_else(|| "without a reason".to_owned());
                    return Err(WalletError::Refused { reason, proof });
                }
            }
            resigns = resigns.saturating_add(1);
        }
    }

    /// What proves that `block` pays by `entry`.
    fn proof(&self, entry: &PayableEntry, block: &StateBlock) -> Result<Proof, OfferError> {
        let hash = block.hash();
        let signature = match entry.mechanism {
            Mechanism::NanoTxn | Mechanism::NanoSession => None,
            Mechanism::NanoSignature => Some(self.signature(entry, hash)?),
        };
        let payment = Payment {
            mechanism: entry.mechanism,
            amount: entry.amount(),
            account: block.account,
            pay_to: entry.pay_to(),
            hash,
            acknowledged: false,
        };
        Ok(Proof { payment, header: offer::proof(entry, block, signature)? })
    }

    fn signature(&self, entry: &PayableEntry, hash: BlockHash) -> Result<Signature, OfferError> {
        let signed = entry.message(hash).and_then(|message| self.chain.sign_message(&message));
        signed.ok_or(OfferError::TooLong)
    }

    /// Sends a copy of `request` with more headers. Repeats it while the gateway says "not yet", and
    /// for `patience` also while no answer comes.
    async fn show(
        &self,
        request: &Request,
        headers: &[(HeaderName, &HeaderValue)],
        patience: Duration,
    ) -> Result<Shown, WalletError> {
        let mut waited = Duration::ZERO;
        loop {
            let mut copy = request.try_clone().ok_or(WalletError::BodyNotRepeatable)?;
            for (name, value) in headers {
                copy.headers_mut().insert(name.clone(), (*value).clone());
            }
            let (pause, end) = match self.http.execute(copy).await {
                Ok(response) => {
                    let shown = headers.first().map(|(name, _)| *name == SIGNATURE);
                    match shown.and_then(|proof| offer::not_yet(&response, proof)) {
                        Some(pause) => (pause, Shown::NotYet { waited }),
                        None => return Ok(Shown::Answered(response)),
                    }
                }
                Err(error) => (LOST_PAUSE, Shown::Lost(cause(error))),
            };
            let limit = match &end {
                Shown::Lost(_) => patience,
                Shown::NotYet { .. } | Shown::Answered(_) => self.options.settle_wait,
            };
            if waited >= limit {
                return Ok(end);
            }
            let pause = pause.min(limit.saturating_sub(waited)).max(Duration::from_millis(1));
            tokio::time::sleep(pause).await;
            waited = waited.saturating_add(pause);
        }
    }
}

fn unreachable_origin(origin: &str, error: String) -> WalletError {
    WalletError::Unreachable { origin: origin.to_owned(), error }
}

/// The innermost cause, without the URL, which may hold a key. reqwest itself only says that sending
/// failed.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_up_to_the_limit() {
        assert!(refuse_hard(Threshold(0)).is_ok() && refuse_hard(MAX_THRESHOLD).is_ok());
        let beyond = Threshold(MAX_THRESHOLD.0.saturating_add(1));
        assert!(matches!(refuse_hard(beyond), Err(WalletError::WorkTooHard { asked }) if asked == beyond));
    }
}
