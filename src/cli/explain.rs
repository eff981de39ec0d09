//! `faregate explain`: what the gateway would do with one request, and why.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::check::{describe, load};
use super::failure::{EX_DATAERR, EX_USAGE, Failure};
use crate::config::{Config, Unmatched};
use crate::gateway::discovery::Documents;
use crate::routes::{
    AbsoluteTarget, Access, CallFault, CanonicalTarget, PreflightRule, Quote, Route, UpstreamName,
};

#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The request's body, for routes whose price depends on it (`mcp`)
    #[arg(short = 'd', long, value_name = "JSON")]
    pub data: Option<String>,
    /// The request's method
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// The request's URL, or its path and query
    #[arg(value_name = "URL")]
    pub url: String,
}

/// Explains the request on `out`.
///
/// # Errors
/// [`Failure::Printed`] with exit code 64 if it is not a request, 65 if it is answered 400, 78 if the
/// configuration has faults; [`Failure::Output`].
pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = load(&args.config, args.json, out)?;
    if http::Method::from_bytes(args.method.as_bytes()).is_err() {
        return refuse(args, EX_USAGE, &format!("{:?} is not a method", args.method), out);
    }
    let absolute = AbsoluteTarget::split(&args.url);
    let target = absolute.as_ref().map_or(args.url.as_str(), |it| &it.target);
    if absolute.is_none() && !target.starts_with('/') && target != "*" {
        let message = "the URL begins with neither `http://`, `https://` nor `/`";
        return refuse(args, EX_USAGE, message, out);
    }
    let target = match CanonicalTarget::parse(target) {
        Ok(target) => target,
        Err(error) => {
            let message = format!("not canonical, answered 400: {error}");
            return refuse(args, EX_DATAERR, &message, out);
        }
    };
    let foreign = absolute.map(|it| it.authority).filter(|authority| !is_public(&config, authority));
    let answer = Explanation {
        config: &config,
        data: args.data.as_deref(),
        method: &args.method,
        target: &target,
        foreign,
    };
    if args.json {
        writeln!(out, "{}", answer.json())?
    } else {
        answer.write(out)?
    }
    Ok(ExitCode::SUCCESS)
}

fn is_public(config: &Config, authority: &str) -> bool {
    let public = config.public_url.authority();
    let default_port = if config.public_url.is_secure() { ":443" } else { ":80" };
    authority.strip_suffix(default_port).unwrap_or(authority).eq_ignore_ascii_case(public)
}

/// Prints why the request cannot be explained.
fn refuse(args: &ExplainArgs, code: u8, message: &str, out: &mut impl Write) -> Result<ExitCode, Failure> {
    if args.json {
        writeln!(out, "{}", json!({ "method": args.method, "url": args.url, "error": message }))?;
    } else {
        writeln!(out, "{} {:?}: {message}", args.method, args.url)?;
    }
    Err(Failure::Printed(code))
}

/// The status of the answer to a call without a price.
const fn refused_with(fault: &CallFault) -> u16 {
    if fault.is_not_offered() { 403 } else { 400 }
}

struct Explanation<'a> {
    config: &'a Config,
    data: Option<&'a str>,
    method: &'a str,
    target: &'a CanonicalTarget,
    /// The URL's authority, if it is not the configured one.
    foreign: Option<&'a str>,
}

impl Explanation<'_> {
    /// Whether the gateway answers itself, before any route.
    fn is_document(&self) -> bool {
        Documents::of(self.config).answer(self.method, self.target)
    }

    /// The routes that cover the request, the winner first.
    fn routes(&self) -> Vec<&Arc<Route>> {
        if self.is_document() {
            return Vec::new();
        }
        self.config.table.matches(self.method, self.target)
    }

    /// The URLs at an upstream; one of them would get the request.
    fn destinations(&self, upstream: &UpstreamName) -> Vec<String> {
        let urls = self.config.upstreams.get(upstream).map(|it| it.urls.as_slice()).unwrap_or_default();
        urls.iter().map(|url| format!("{url}{}", self.target)).collect()
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "request   {} {}", self.method, self.target)?;
        if let Some(foreign) = self.foreign {
            let public = self.config.public_url.authority();
            writeln!(
                out,
                "note      {foreign:?} is not the public URL's {public:?}; only the path counts here"
            )?;
        }
        if self.is_document() {
            writeln!(out, "answer    200: what the gateway publishes about its prices (`discovery`)")?;
            return writeln!(out, "costs     nothing");
        }
        let routes = self.routes();
        let Some((winner, others)) = routes.split_first() else {
            writeln!(out, "route     none")?;
            return match &self.config.unmatched {
                Unmatched::NotFound => writeln!(out, "answer    404"),
                Unmatched::Free(upstream) => {
                    writeln!(out, "costs     nothing (`unmatched` is free)")?;
                    self.write_destinations(upstream, out)
                }
            };
        };
        writeln!(out, "route     {} (`{}`)", winner.name, winner.pattern)?;
        match others.first() {
            Some(next) => writeln!(out, "why       {}", winner.precedence_over(next))?,
            None => writeln!(out, "why       no other route covers it")?,
        }
        self.write_price(winner, out)?;
        if self.method.eq_ignore_ascii_case("OPTIONS") {
            writeln!(out, "preflight answered by the {}", self.who_answers_preflights(winner))?;
        }
        self.write_destinations(&winner.upstream, out)?;
        for other in others {
            let why = winner.precedence_over(other);
            writeln!(out, "beaten    {} (`{}`): {why}", other.name, other.pattern)?;
        }
        Ok(())
    }

    fn write_price(&self, route: &Route, out: &mut impl Write) -> io::Result<()> {
        let grants = match &route.access {
            Access::Free => return writeln!(out, "costs     nothing"),
            Access::Priced(terms) => {
                writeln!(out, "costs     {} ({} raw)", terms.amount.xno(), terms.amount)?;
                terms.grants
            }
            Access::Calls(prices) => {
                match self.data.map(|data| prices.quote(data.as_bytes())) {
                    None => prices
                        .lines()
                        .try_for_each(|(line, price)| writeln!(out, "call      {line}: {price}"))?,
                    Some(Ok(Quote::Free)) => writeln!(out, "costs     nothing")?,
                    Some(Ok(Quote::Costs { part, amount })) => {
                        writeln!(out, "costs     {} ({amount} raw)", amount.xno())?;
                        writeln!(out, "buys      {}", route.name.part(&part))?;
                    }
                    Some(Err(fault)) => writeln!(out, "answer    {}: {fault}", refused_with(&fault))?,
                }
                prices.grants
            }
        };
        writeln!(out, "grants    {grants}")?;
        writeln!(out, "paid by   {}", self.mechanisms(route).join(", "))?;
        writeln!(out, "charged   {}", route.charge_on.as_str())
    }

    fn who_answers_preflights(&self, route: &Route) -> &'static str {
        match route.preflight.unwrap_or(self.config.preflight) {
            PreflightRule::Upstream => "upstream, without bodies",
            PreflightRule::Gateway if self.config.table.has_price(self.target) => "gateway",
            PreflightRule::Gateway => "upstream, or by the gateway if `cors` allows the origin",
        }
    }

    /// How a payment for the route may be proven, in the order of the offers.
    fn mechanisms(&self, route: &Route) -> Vec<&'static str> {
        let own = self.config.mechanisms.get(&route.name);
        own.unwrap_or(&self.config.nano.mechanisms).iter().map(|it| it.as_str()).collect()
    }

    /// What `--data` costs on the winning route; `None` if it does not matter there.
    fn quote(&self, route: Option<&Arc<Route>>) -> Option<Value> {
        let (Some(data), Some(Access::Calls(prices))) = (self.data, route.map(|it| &it.access)) else {
            return None;
        };
        Some(match prices.quote(data.as_bytes()) {
            Ok(Quote::Free) => json!({ "free": true }),
            Ok(Quote::Costs { part, amount }) => {
                json!({ "free": false, "buys": part, "amount": amount, "xno": amount.xno().to_string() })
            }
            Err(fault) => json!({ "answer": refused_with(&fault), "error": fault.to_string() }),
        })
    }

    fn write_destinations(&self, upstream: &UpstreamName, out: &mut impl Write) -> io::Result<()> {
        self.destinations(upstream).iter().try_for_each(|url| writeln!(out, "goes to   {upstream}: {url}"))
    }

    fn json(&self) -> Value {
        let routes = self.routes();
        let upstream = match (routes.first(), &self.config.unmatched) {
            (Some(winner), _) => Some(&winner.upstream),
            (None, Unmatched::Free(upstream)) if !self.is_document() => Some(upstream),
            (None, Unmatched::Free(_) | Unmatched::NotFound) => None,
        };
        let beaten: Vec<_> = routes
            .iter()
            .skip(1)
            .zip(std::iter::repeat(routes.first()))
            .filter_map(|(other, winner)| {
                Some(json!({ "route": describe(other), "why": winner?.precedence_over(other).to_string() }))
            })
            .collect();
        json!({
            "method": self.method,
            "target": self.target.as_str(),
            "foreign_authority": self.foreign,
            "document": self.is_document(),
            "route": routes.first().map(|route| describe(route)),
            "beaten": beaten,
            "call": self.quote(routes.first().copied()),
            "mechanisms": routes.first().filter(|it| !matches!(it.access, Access::Free)).map(|it| self.mechanisms(it)),
            "upstream": upstream.map(UpstreamName::as_str),
            "goes_to": upstream.map(|it| self.destinations(it)).unwrap_or_default(),
        })
    }
}
