//! The facilitator's answers: statuses and JSON for each verdict.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::ask::RequestFault;
use crate::cashier::facilitate::Unpaid;
use crate::cashier::{PendingReason, Wait};
use crate::metrics::FacilitatorOutcome;
use crate::nano::{Account, BlockHash, Network};
use crate::payment::{Mechanism, Purchase, Refusal};
use crate::x402::{self, PaymentRequired, SettlementOutcome, SettlementResponse};

/// The `Retry-After` of an answer that nothing can be settled now, in seconds.
const RETRY_SECONDS: &str = "1";

/// An answer to a resource server.
pub(super) struct FacilitatorAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Value,
    pub(super) outcome: FacilitatorOutcome,
}

/// Which endpoint's JSON an answer has.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnswerShape {
    Bill,
    Verify { payer: Option<Account> },
    Settle { payer: Option<Account>, block: BlockHash },
}

/// The one use of a settled payment is being handed to another call.
pub(super) const fn pending(block: BlockHash) -> Wait {
    Wait::Pending { block, reason: PendingReason::Settlement }
}

impl FacilitatorAnswer {
    const fn new(status: StatusCode, outcome: FacilitatorOutcome, body: Value) -> Self {
        Self { status, headers: Vec::new(), body, outcome }
    }

    const fn ok(outcome: FacilitatorOutcome, body: Value) -> Self {
        Self::new(StatusCode::OK, outcome, body)
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn fault(status: StatusCode, error: &str, message: &str) -> Self {
        Self::new(status, FacilitatorOutcome::Faulty, json!({ "error": error, "message": message }))
    }

    pub(super) fn not_found() -> Self {
        let known = "try GET /supported, POST /verify, /settle, /requirements or /accepts";
        Self::fault(StatusCode::NOT_FOUND, "not_found", known)
    }

    pub(super) fn wrong_method(right: &Method) -> Self {
        let message = format!("this endpoint takes {right}");
        Self::fault(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &message)
            .with("Allow", right.as_str())
    }

    pub(super) fn unauthorized() -> Self {
        let message = "send `Authorization: Bearer` with the token of the facilitator's `token_file`";
        Self::fault(StatusCode::UNAUTHORIZED, "unauthorized", message).with("WWW-Authenticate", "Bearer")
    }

    pub(super) fn too_long(most: usize) -> Self {
        let message = format!("the body is longer than {most} bytes");
        Self::fault(StatusCode::PAYLOAD_TOO_LARGE, "too_long", &message)
    }

    pub(super) fn bad_request(fault: &RequestFault) -> Self {
        Self::fault(StatusCode::BAD_REQUEST, "bad_request", &fault.to_string())
    }

    pub(super) fn supported(mechanisms: &[Mechanism]) -> Self {
        let names: Vec<_> = mechanisms.iter().map(|it| it.as_str()).collect();
        Self::ok(FacilitatorOutcome::Told, x402::supported(&names))
    }

    pub(super) fn bill(bill: &PaymentRequired) -> Self {
        Self::ok(FacilitatorOutcome::Minted, bill.to_json())
    }

    pub(super) fn valid(payer: Account) -> Self {
        Self::ok(FacilitatorOutcome::Valid, json!({ "isValid": true, "payer": payer.to_string() }))
    }

    pub(super) fn invalid(reason: &str, message: &str, payer: Option<Account>) -> Self {
        let mut body = json!({ "isValid": false, "invalidReason": reason, "invalidMessage": message });
        if let (Some(payer), Value::Object(fields)) = (payer, &mut body) {
            fields.insert("payer".to_owned(), payer.to_string().into());
        }
        Self::ok(FacilitatorOutcome::Refused, body)
    }

    pub(super) fn settled(payment: &Purchase) -> Self {
        let Purchase { block, payer, amount, .. } = *payment;
        let outcome = SettlementOutcome::Settled { transaction: block, payer, amount, capability: None };
        Self::ok(FacilitatorOutcome::Settled, settlement(outcome))
    }

    pub(super) fn unsettled(
        reason: &str,
        message: &str,
        payer: Option<Account>,
        transaction: Option<BlockHash>,
    ) -> Self {
        let (reason, message) = (reason.to_owned(), Some(message.to_owned()));
        let outcome = SettlementOutcome::Failed { transaction, payer, reason, message };
        Self::ok(FacilitatorOutcome::Refused, settlement(outcome))
    }

    /// The answer about a payment that cannot be accepted.
    pub(super) fn unpaid(shape: AnswerShape, unpaid: &Unpaid) -> Self {
        match unpaid {
            Unpaid::Refused(refusal) => Self::of_shape(shape, refusal.code(), advice(*refusal)),
            Unpaid::Wait(wait) => Self::unavailable(shape, wait),
        }
    }

    /// The answer if it is too early: 200 for a payment that is pending, 503 if nothing can be settled at
    /// all.
    pub(super) fn unavailable(shape: AnswerShape, wait: &Wait) -> Self {
        let (reason, message) = words(wait);
        let answer = Self::of_shape(shape, reason, message);
        match wait {
            Wait::Pending { .. } | Wait::UsesOut | Wait::SameId => {
                Self { outcome: FacilitatorOutcome::Pending, ..answer }
            }
            Wait::UpstreamDown(_)
            | Wait::UpstreamFailing(_)
            | Wait::NoNode
            | Wait::NoRate
            | Wait::NoStore
            | Wait::NoWork
            | Wait::Overloaded => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                outcome: FacilitatorOutcome::Unavailable,
                ..answer.with("Retry-After", RETRY_SECONDS)
            },
        }
    }

    fn of_shape(shape: AnswerShape, reason: &str, message: &str) -> Self {
        match shape {
            AnswerShape::Bill => Self::fault(StatusCode::SERVICE_UNAVAILABLE, reason, message),
            AnswerShape::Verify { payer } => Self::invalid(reason, message, payer),
            AnswerShape::Settle { payer, block } => Self::unsettled(reason, message, payer, Some(block)),
        }
    }
}

fn settlement(outcome: SettlementOutcome) -> Value {
    SettlementResponse { network: Network::Mainnet, outcome, extensions: Map::new() }.to_json()
}

/// What a resource server's client should do after a refusal.
const fn advice(refusal: Refusal) -> &'static str {
    if matches!(refusal, Refusal::PaymentExpired) {
        return "the challenge has expired: ask for the resource again; a block that was sent in time can be \
                shown under the next challenge, which names the same address";
    }
    if matches!(refusal, Refusal::WrongResource) {
        return "the payment is for another resource: `extra.route` of the payment's entry and of \
                `paymentRequirements` must be the same, and made by this facilitator for the resource";
    }
    refusal.advice()
}

const fn words(wait: &Wait) -> (&'static str, &'static str) {
    match wait {
        Wait::Pending { reason: PendingReason::Settlement, .. } | Wait::UsesOut | Wait::SameId => (
            "settlement_pending",
            "the payment is known and not settled yet: send the same call again, do not pay again",
        ),
        Wait::Pending { reason: PendingReason::BlockNotFound, .. } => {
            ("BLOCK_NOT_FOUND", "no node knows the block yet: send the same call again, do not pay again")
        }
        Wait::NoNode => ("no_node", "no Nano node answers: nothing is sold until one does"),
        Wait::NoRate => ("rate_unavailable", "no rate is known for the currency of the price: try again"),
        Wait::NoStore => ("no_store", "payments cannot be recorded: nothing is sold until they can be"),
        Wait::NoWork => ("no_work", "the block has no work and the work server gave none: try again"),
        // No upstream is asked for what a facilitator sells.
        Wait::UpstreamDown(_) | Wait::UpstreamFailing(_) | Wait::Overloaded => {
            ("overloaded", "too many payments are under way: try again")
        }
    }
}
