//! Request headers that are the gateway's own. What a client sends under such a name stops here, so no
//! price can depend on it.

/// Payment headers, old and new; those that the gateway itself adds; and those that some servers take
/// for the request's address, path or method instead of what was matched and paid for. `name` is in lower
/// case, with `-` for `_`.
#[must_use]
pub fn is_own_header(name: &str) -> bool {
    const STARTS: [&str; 6] = ["payment-", "x-payment", "x-x402", "faregate-", "x-forwarded-", "x-original-"];
    const NAMES: [&str; 9] = [
        "payment",
        "forwarded",
        "x-real-ip",
        "x-request-id",
        "x-rewrite-url",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "http2-settings",
    ];
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}

/// Whether a header ends at each connection, frames the message, or has a part of its own in how a request
/// is read (RFC 9110 section 7.6.1).
#[must_use]
pub fn is_of_the_connection(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    ];
    name.starts_with("proxy-") || NAMES.contains(&name)
}
