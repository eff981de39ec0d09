//! Redirects of an upstream to itself, rewritten to lead to the gateway.
//!
//! An upstream names what it knows: an address of its own, the `Host` that it was sent, a path below its
//! base path. A client that followed that would reach nothing, or pass by the gateway. So in `Location`,
//! `Content-Location` and `Refresh` the names of the upstream become `public_url`, whatever scheme they
//! are written with, and its base path is taken off. What names another place stays as it is, and so does
//! a path of the upstream that is not below its base path: it cannot be reached through the gateway.

use std::borrow::Cow;

use http::StatusCode;
use http::header::{CONTENT_LOCATION, HOST, HeaderName, HeaderValue, LOCATION, REFRESH};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;
use url::{Host, Url};

use super::context::Context;
use crate::config::{PublicUrl, Redirects, UpstreamUrl};
use crate::routes::{CanonicalTarget, RequestHead, RequestHost, Strip};

/// What a relative URL is resolved against. No host has this name (RFC 2606).
const NOWHERE: &str = "http://upstream.invalid";

/// The answers that send a client elsewhere (RFC 9110, section 15.4).
const REDIRECTS: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];

/// Rewrites what an answer to `request` says about places.
pub(super) fn rewrite(
    response: &mut ResponseHeader,
    request: &RequestHeader,
    context: &Context,
) -> Result<()> {
    let names = [LOCATION, CONTENT_LOCATION, REFRESH];
    let Some(forwarding) = &context.forwarding else { return Ok(()) };
    let settings = forwarding.upstream.settings();
    if settings.redirects == Redirects::Keep || !names.iter().any(|it| response.headers.contains_key(it)) {
        return Ok(());
    }
    let host = request.headers.get(HOST).and_then(|it| it.to_str().ok());
    let told = context.caller.host(request).into_iter();
    let public = &context.public_url();
    let map = PlaceMap {
        urls: &settings.urls,
        aliases: told.chain(host).chain([public.authority()]).filter_map(Place::of_authority).collect(),
        base_path: forwarding.chosen.as_ref().map_or("", |it| it.url.base_path.as_str()),
        target: &forwarding.seen(),
        prefix: forwarding.strip.as_ref().map_or("", Strip::as_str),
        public,
    };
    for name in names {
        rewrite_header(
            response,
            &name,
            |text| {
                if name == REFRESH { map.refresh(text) } else { map.url(text) }
            },
        )?;
    }
    Ok(())
}

/// Rewrites the values of one header. Those that `map` has no other text for stay.
fn rewrite_header(
    response: &mut ResponseHeader,
    name: &HeaderName,
    map: impl Fn(&str) -> Option<String>,
) -> Result<()> {
    let given: Vec<HeaderValue> = response.headers.get_all(name).iter().cloned().collect();
    // Browsers read more than ASCII in these headers.
    let mapped = |it: &HeaderValue| map(std::str::from_utf8(it.as_bytes()).ok()?.trim());
    let mapped: Vec<_> = given.iter().map(mapped).collect();
    if mapped.iter().all(Option::is_none) {
        return Ok(());
    }
    let _removed = response.remove_header(name).is_some();
    for (given, mapped) in given.into_iter().zip(mapped) {
        let value = mapped.and_then(|it| HeaderValue::from_str(&it).ok()).unwrap_or(given);
        let _appended = response.append_header(name.clone(), value)?;
    }
    Ok(())
}

/// Whether an answer, as the client gets it, redirects to a path of this gateway that has a price. Then
/// the request that follows is charged for.
pub(super) fn leads_to_a_price(
    response: &ResponseHeader,
    asked: &CanonicalTarget,
    context: &Context,
) -> bool {
    if !REDIRECTS.contains(&response.status) {
        return false;
    }
    let mut locations = response.headers.get_all(LOCATION).iter();
    let (Some(location), None) = (locations.next(), locations.next()) else { return false };
    let Ok(location) = std::str::from_utf8(location.as_bytes()) else { return false };
    let Ok(here) = Url::parse(&context.public_url().join(asked.as_str())) else { return false };
    let Ok(there) = here.join(location.trim()) else { return false };
    let target = CanonicalTarget::parse(&reference(there.path(), &there, false));
    let host = there.host_str().and_then(RequestHost::read);
    let has_price = |target: CanonicalTarget| {
        let follows = RequestHead { host: host.as_ref(), ..RequestHead::new("GET", &target) };
        context.tariff.table.has_price(&follows)
    };
    here.origin() == there.origin() && target.is_ok_and(has_price)
}

/// A host and a port.
#[derive(Eq, PartialEq)]
struct Place {
    host: Host<String>,
    port: u16,
}

impl Place {
    fn of(url: &Url) -> Option<Self> {
        Some(Self { host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    fn of_authority(text: &str) -> Option<Self> {
        Self::of(&Url::parse(&format!("http://{text}/")).ok()?)
    }

    fn of_upstream(url: &UpstreamUrl) -> Option<Self> {
        let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
        Some(Self { host: Host::parse(&host).ok()?, port: url.port })
    }

    /// Whether it is the other, whether by HTTP or by TLS: an upstream behind the gateway does not know
    /// which of them clients use.
    fn is(&self, other: &Self) -> bool {
        let is_usual = |port| [80, 443].contains(&port);
        self.host == other.host && (self.port == other.port || is_usual(self.port) && is_usual(other.port))
    }
}

/// What an upstream calls itself, and what it is called by clients.
struct PlaceMap<'a> {
    /// The upstream's servers. Their paths are below their base paths.
    urls: &'a [UpstreamUrl],
    /// The names under which clients know the gateway.
    aliases: Vec<Place>,
    /// The base path of the server that answers.
    base_path: &'a str,
    /// What was asked for, without the base path and the prefix.
    target: &'a str,
    /// What the upstream does not see of the paths at the gateway.
    prefix: &'a str,
    public: &'a PublicUrl,
}

impl PlaceMap<'_> {
    /// The URL at the gateway for `text`, a URL or a part of one; `None` if it is to stay.
    fn url(&self, text: &str) -> Option<String> {
        let asked = Url::parse(&format!("{NOWHERE}{}{}", self.base_path, self.target)).ok()?;
        let meant = asked.join(text).ok()?;
        if !["http", "https"].contains(&meant.scheme()) {
            return None;
        }
        if meant.origin() == asked.origin() {
            // It names no host. Without a base path and a prefix it means the same to the client.
            let is_other = !self.base_path.is_empty() || !self.prefix.is_empty();
            let path = below(self.base_path, meant.path()).filter(|_| is_other)?;
            return Some(reference(&self.prefixed(path), &meant, true));
        }
        let path = self.own_path(&meant)?;
        Some(self.public.join(&reference(&self.prefixed(path), &meant, true)))
    }

    /// The path at the gateway for one at the upstream. One that begins with the prefix is from an upstream
    /// that heeds `X-Forwarded-Prefix`.
    fn prefixed<'p>(&self, path: &'p str) -> Cow<'p, str> {
        let has_it = self.prefix.is_empty() || below(self.prefix, path).is_some();
        if has_it { Cow::Borrowed(path) } else { Cow::Owned(format!("{}{path}", self.prefix)) }
    }

    /// The path at the gateway of a URL that names the upstream or the gateway.
    fn own_path<'u>(&self, meant: &'u Url) -> Option<&'u str> {
        let (place, path) = (Place::of(meant)?, meant.path());
        let is_it = |url: &&UpstreamUrl| Place::of_upstream(url).is_some_and(|it| it.is(&place));
        let mut servers = self.urls.iter().filter(is_it).peekable();
        if servers.peek().is_some() {
            return servers.find_map(|it| below(&it.base_path, path));
        }
        let is_known = self.aliases.iter().any(|it| it.is(&place));
        is_known.then(|| below(self.base_path, path).unwrap_or(path))
    }

    /// The same for the content of `Refresh`: seconds, and a URL.
    fn refresh(&self, text: &str) -> Option<String> {
        let (seconds, rest) = text.split_once([';', ','])?;
        let rest = rest.trim_start();
        let named = rest.split_at_checked(3).filter(|(word, _)| word.eq_ignore_ascii_case("url"));
        let url = named.and_then(|(_, it)| it.trim_start().strip_prefix('=')).map_or(rest, str::trim_start);
        let quote = url.chars().next().filter(|it| ['"', '\''].contains(it));
        let bare = quote.map_or(url, |it| url.trim_start_matches(it).split(it).next().unwrap_or_default());
        Some(format!("{}; url={}", seconds.trim_end(), self.url(bare)?))
    }
}

/// What is left of a path without `base`; `None` if it is not below it.
fn below<'p>(base: &str, path: &'p str) -> Option<&'p str> {
    match path.strip_prefix(base)? {
        "" => Some("/"),
        rest => rest.starts_with('/').then_some(rest),
    }
}

/// A path with the query of `url`, and with its fragment if it is wanted.
fn reference(path: &str, url: &Url, with_fragment: bool) -> String {
    let query = url.query().map(|it| format!("?{it}")).unwrap_or_default();
    let fragment = url.fragment().filter(|_| with_fragment).map(|it| format!("#{it}")).unwrap_or_default();
    format!("{path}{query}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::super::scenes::config;
    use super::*;

    fn server(tls: bool, host: &str, port: u16, base_path: &str) -> UpstreamUrl {
        UpstreamUrl { tls, host: host.to_owned(), port, base_path: base_path.to_owned() }
    }

    fn place(authority: &str) -> Place {
        Place::of_authority(authority).unwrap()
    }

    /// What clients call the gateway.
    fn public() -> PublicUrl {
        config("url: http://127.0.0.1:3000").public_url
    }

    #[test]
    fn a_place_is_the_same_by_http_and_by_tls() {
        assert!(place("api.example").is(&place("api.example:443")));
        assert!(place("api.example:3000").is(&place("API.example:3000")));
        assert!(!place("api.example:3000").is(&place("api.example")));
        assert!(!place("api.example").is(&place("api.example:3000")));
        assert!(!place("api.example:3000").is(&place("api.example:3001")));
        assert!(!place("api.example").is(&place("other.example")));
        let six = Place::of_upstream(&server(false, "::1", 3000, "")).unwrap();
        assert!(six.is(&place("[::1]:3000")) && !six.is(&place("[::2]:3000")));
        assert!(Place::of_authority("").is_none());
    }

    /// What becomes of URLs that an upstream of two servers names, asked for `/a/b` below its base path.
    fn mapped(base_path: &str, prefix: &str, text: &str) -> Option<String> {
        let urls = [server(false, "10.0.0.1", 3000, base_path), server(true, "inner.example", 443, "/other")];
        let public = public();
        let map = PlaceMap {
            urls: &urls,
            aliases: vec![place("shop.example")],
            base_path,
            target: "/a/b",
            prefix,
            public: &public,
        };
        map.url(text)
    }

    #[test]
    fn what_names_the_upstream_leads_to_the_gateway() {
        for (base_path, prefix, text, expected) in [
            ("", "", "http://10.0.0.1:3000/x?q=1#top", Some("https://shop.example/x?q=1#top")),
            ("", "", "http://10.0.0.1:3001/x", None),
            ("", "", "//10.0.0.1:3000/x", Some("https://shop.example/x")),
            ("", "", "http://inner.example/other/x", Some("https://shop.example/x")),
            ("", "", "http://inner.example/other", Some("https://shop.example/")),
            ("", "", "http://inner.example/otherwise", None),
            ("", "", "http://shop.example/x", Some("https://shop.example/x")),
            ("", "", "https://elsewhere.example/x", None),
            ("", "", "mailto:a@shop.example", None),
            ("", "", "ftp://10.0.0.1:3000/x", None),
            ("", "", "/x", None),
            ("", "", "../x", None),
            ("/base", "", "/base/x?q=1#top", Some("/x?q=1#top")),
            ("/base", "", "c", Some("/a/c")),
            ("/base", "", "/elsewhere", None),
            ("/base", "", "http://10.0.0.1:3000/base/x", Some("https://shop.example/x")),
            ("/base", "", "http://10.0.0.1:3000/elsewhere", None),
            ("/base", "", "http://shop.example/base/x", Some("https://shop.example/x")),
            ("/base", "", "http://shop.example/x", Some("https://shop.example/x")),
            ("", "/api", "/x", Some("/api/x")),
            ("", "/api", "/api/x", Some("/api/x")),
            ("", "/api", "/apis", Some("/api/apis")),
            ("", "/api", "c", Some("/api/a/c")),
            ("", "/api", "http://10.0.0.1:3000/x", Some("https://shop.example/api/x")),
        ] {
            let found = mapped(base_path, prefix, text);
            assert_eq!(found.as_deref(), expected, "{base_path:?} {prefix:?} {text:?}");
        }
    }

    #[test]
    fn the_url_of_a_refresh_is_read_as_browsers_do() {
        let public = public();
        let urls = [server(false, "10.0.0.1", 3000, "")];
        let map = PlaceMap {
            urls: &urls,
            aliases: vec![],
            base_path: "",
            target: "/",
            prefix: "",
            public: &public,
        };
        for text in [
            "5; url=http://10.0.0.1:3000/x",
            "5;URL = 'http://10.0.0.1:3000/x' and more",
            "5 , \"http://10.0.0.1:3000/x\"",
            "5;http://10.0.0.1:3000/x",
        ] {
            assert_eq!(map.refresh(text).as_deref(), Some("5; url=https://shop.example/x"), "{text}");
        }
        for text in ["5", "5; url=/x", "5; url=https://elsewhere.example/"] {
            assert_eq!(map.refresh(text), None, "{text}");
        }
    }

    #[test]
    fn only_values_with_another_text_are_written_again() {
        let mut response = ResponseHeader::build(StatusCode::OK, None).unwrap();
        for value in ["one", " two ", "three"] {
            response.append_header(LOCATION, value).unwrap();
        }
        rewrite_header(&mut response, &LOCATION, |it| (it == "two").then(|| "2".to_owned())).unwrap();
        let values: Vec<_> = response.headers.get_all(LOCATION).iter().collect();
        assert_eq!(values, ["one", "2", "three"]);
    }
}
