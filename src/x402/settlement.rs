//! `SettlementResponse`, the receipt in the header `PAYMENT-RESPONSE`.

use serde_json::{Map, Value, json};

use super::fields::{Fields, excerpt};
use super::{Credential, FieldFault, X402_VERSION, encode_header, push_text, readable, serde_json_form};
use crate::nano::{Account, BlockHash, Network, Raw, UnixSeconds};
use crate::routes::Left;

/// The result of a payment ([protocol guide](crate::guide::protocol), "Settlement"). A receipt that cannot
/// be read does not say whether the payment succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct SettlementResponse {
    pub network: Network,
    pub outcome: SettlementOutcome,
    /// Without `capability`, which is in [`SettlementOutcome::Settled`].
    pub extensions: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SettlementOutcome {
    Settled {
        transaction: BlockHash,
        payer: Account,
        /// The amount that was paid, in raw.
        amount: Raw,
        /// What the payment bought.
        capability: Option<CapabilityNotice>,
    },
    /// Refused, or not settled yet.
    Failed {
        /// The block, if the proof names one.
        transaction: Option<BlockHash>,
        payer: Option<Account>,
        /// The code of a refusal, or `settlement_pending`.
        reason: String,
        /// A sentence for people.
        message: Option<String>,
    },
}

/// `extensions.capability`: the capability that the payer receives
/// ([protocol guide](crate::guide::protocol), "Capability").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CapabilityNotice {
    pub token: Credential,
    pub left: Left,
    pub expires: UnixSeconds,
}

const CAPABILITY: &str = "capability";

impl SettlementResponse {
    /// The JSON of the receipt. `transaction` is the hash or `""` and never missing, as the official
    /// clients require. The parser of x402.Nano looks for `x402Version` and `result.mode`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
        let mut extensions = self.extensions.clone();
        put("x402Version", X402_VERSION.into());
        put("network", self.network.to_string().into());
        match &self.outcome {
            SettlementOutcome::Settled { transaction, payer, amount, capability } => {
                let (hash, payer) = (transaction.lower_hex(), payer.to_string());
                let amount = amount.to_string();
                let result =
                    json!({ "mode": "settled", "sendHash": hash, "payerAccount": payer, "amount": amount });
                put("success", true.into());
                put("result", result);
                put("transaction", hash.into());
                put("payer", payer.into());
                put("amount", amount.into());
                if let Some(capability) = capability {
                    extensions.insert(CAPABILITY.to_owned(), capability.to_json());
                }
            }
            SettlementOutcome::Failed { transaction, payer, reason, message } => {
                put("success", false.into());
                put("result", json!({ "mode": "failed", "error": reason }));
                let hash = transaction.map(|hash| hash.lower_hex()).unwrap_or_default();
                put("transaction", hash.into());
                put("errorReason", reason.as_str().into());
                if let Some(payer) = payer {
                    put("payer", payer.to_string().into());
                }
                if let Some(message) = message {
                    put("errorMessage", message.as_str().into());
                }
            }
        }
        if !extensions.is_empty() {
            put("extensions", Value::Object(extensions));
        }
        Value::Object(json)
    }

    /// The value of the `PAYMENT-RESPONSE` header.
    #[must_use]
    pub fn to_header(&self) -> String {
        encode_header(&self.to_json())
    }

    /// `x402Version` may be missing, since the official type does not have it.
    fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        if fields.optional("x402Version").is_some() {
            fields.version()?;
        }
        let network = fields.required("network")?;
        if network.as_str() != Some(&Network::Mainnet.to_string()) {
            return Err(FieldFault::Network { path: fields.path("network"), found: excerpt(network) });
        }
        let mut extensions = fields.extensions()?;
        let transaction = fields.optional_parsed("transaction")?;
        let outcome = if fields.flag("success")? {
            extensions.remove(CAPABILITY);
            let capability = match fields.optional_object("extensions")? {
                Some(extensions) => extensions.optional_object(CAPABILITY)?,
                None => None,
            };
            SettlementOutcome::Settled {
                transaction: transaction.ok_or_else(|| fields.missing("transaction"))?,
                payer: fields.parsed("payer")?,
                amount: fields.parsed("amount")?,
                capability: capability.map(|it| CapabilityNotice::read(&it)).transpose()?,
            }
        } else {
            SettlementOutcome::Failed {
                transaction,
                payer: fields.optional_parsed("payer")?,
                reason: fields.text("errorReason")?.to_owned(),
                message: fields.optional_text("errorMessage")?.map(str::to_owned),
            }
        };
        Ok(Self { network: Network::Mainnet, outcome, extensions })
    }
}

/// The receipt of a payment that is not settled, as text: what [`SettlementResponse::to_json`] says of it, without
/// making the values first.
#[must_use]
pub fn failed_text(transaction: Option<BlockHash>, reason: &str, message: Option<&str>) -> String {
    let mut json = String::with_capacity(256_usize.saturating_add(message.map_or(0, str::len)));
    json.push('{');
    if let Some(message) = message {
        json.push_str("\"errorMessage\":");
        push_text(&mut json, message);
        json.push(',');
    }
    json.push_str("\"errorReason\":");
    push_text(&mut json, reason);
    json.push_str(",\"network\":\"");
    json.push_str(&Network::Mainnet.to_string());
    json.push_str("\",\"result\":{\"error\":");
    push_text(&mut json, reason);
    json.push_str(",\"mode\":\"failed\"},\"success\":false,\"transaction\":\"");
    if let Some(hash) = transaction {
        json.push_str(&hash.lower_hex());
    }
    json.push_str("\",\"x402Version\":");
    json.push_str(itoa::Buffer::new().format(X402_VERSION));
    json.push('}');
    json
}

impl CapabilityNotice {
    fn to_json(&self) -> Value {
        json!({ "token": self.token.expose(), (self.left.name()): self.left, "expires": self.expires })
    }

    fn read(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        Ok(Self {
            token: Credential::new(fields.text("token")?.to_owned()),
            left: match fields.optional_parsed("balance")? {
                Some(balance) => Left::Balance(balance),
                None => Left::Uses(fields.integer("remaining")?),
            },
            expires: UnixSeconds(fields.integer("expires")?),
        })
    }
}

readable!(SettlementResponse);
serde_json_form!(SettlementResponse);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_receipt_of_nothing_reads_as_its_json_form_is_written(
            hash in proptest::option::of(any::<[u8; 32]>()),
            reason in ".{0,20}",
            message in proptest::option::of(".{0,40}"),
        ) {
            let (transaction, payer) = (hash.map(BlockHash), None);
            let text = failed_text(transaction, &reason, message.as_deref());
            let outcome = SettlementOutcome::Failed { transaction, payer, reason, message };
            let whole = SettlementResponse { network: Network::Mainnet, outcome, extensions: Map::new() };
            prop_assert_eq!(text, whole.to_json().to_string());
        }
    }
}
