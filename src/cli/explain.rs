//! `faregate explain`: what the gateway would do with one request, and why.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::arguments::{self, ConfigArgs};
use super::check::load;
use super::failure::{EX_DATAERR, EX_USAGE, Failure};
use super::metered;
use crate::admin::views;
use crate::config::{Config, Unmatched};
use crate::gateway::discovery::Documents;
use crate::money::Cost;
use crate::routes::{
    AbsoluteTarget, Access, CallFault, Candidate, CanonicalTarget, Enforcement, Met, PreflightRule, Quote,
    RateLimit, RequestHead, RequestHost, Route, Unclear, UpstreamName,
};

#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The request's body, for routes whose price depends on it (`mcp`, `meter`)
    #[arg(short = 'd', long, value_name = "JSON")]
    pub data: Option<String>,
    /// A header of the request, `Name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = arguments::header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's `Host`, empty for none [default: the URL's, or that of `public_url`]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
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
    if args.headers.iter().any(|(name, _)| *name == http::header::HOST) {
        return refuse(args, EX_USAGE, "give the host with `--host`", out);
    }
    let authority = absolute.as_ref().map(|it| it.authority);
    if let (Some(authority), Some(host)) = (authority, args.host.as_deref())
        && !authority.eq_ignore_ascii_case(host)
    {
        let message = format!("the URL is for {authority:?}, `--host` says {host:?}: answered 400");
        return refuse(args, EX_DATAERR, &message, out);
    }
    let by_host = config.table.routes().iter().any(|it| it.conditions.host().is_some());
    let foreign = authority.filter(|authority| !by_host && !is_public(&config, authority));
    let host = args.host.as_deref().or(authority).unwrap_or(config.public_url.authority());
    let host = RequestHost::read(host);
    let headers = args.headers.iter().cloned().collect::<HeaderMap>();
    let head =
        RequestHead { method: &args.method, host: host.as_ref(), target: &target, headers: Some(&headers) };
    let answer = Explanation::of(&config, args.data.as_deref(), head, foreign);
    if args.json {
        writeln!(out, "{}", answer.json())?
    } else {
        answer.write(out)?
    }
    match answer.found {
        Found::Unclear(_) => Err(Failure::Printed(EX_DATAERR)),
        Found::Document | Found::Route(_) | Found::Nothing => Ok(ExitCode::SUCCESS),
    }
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

/// What becomes of the request.
#[derive(Clone, Copy)]
enum Found<'a> {
    /// The gateway answers itself, before any route.
    Document,
    Route(&'a Arc<Route>),
    Unclear(Unclear<'a>),
    Nothing,
}

struct Explanation<'a> {
    config: &'a Config,
    data: Option<&'a str>,
    head: RequestHead<'a>,
    /// The URL's authority, if it is not the configured one and no price depends on it.
    foreign: Option<&'a str>,
    found: Found<'a>,
    /// The routes whose path and method match, in the order in which they are asked.
    candidates: Vec<Candidate<'a>>,
}

impl<'a> Explanation<'a> {
    fn of(
        config: &'a Config,
        data: Option<&'a str>,
        head: RequestHead<'a>,
        foreign: Option<&'a str>,
    ) -> Self {
        let documents = Documents::of(config);
        let mut candidates = config.table.candidates(&head);
        let found = if documents.answer(&head, &config.table) {
            candidates.clear();
            Found::Document
        } else {
            match candidates.iter().find(|it| it.met != Met::No) {
                Some(Candidate { met: Met::Unclear(why), .. }) => Found::Unclear(*why),
                Some(Candidate { route, .. }) => Found::Route(route),
                None => Found::Nothing,
            }
        };
        Self { config, data, head, foreign, found, candidates }
    }

    /// The URLs at an upstream; one of them would get the request.
    fn destinations(&self, upstream: &UpstreamName) -> Vec<String> {
        let urls = self.config.upstreams.get(upstream).map(|it| it.urls.as_slice()).unwrap_or_default();
        let target = self.head.target;
        let strip = match self.found {
            Found::Route(route) => route.strip.as_ref(),
            Found::Document | Found::Unclear(_) | Found::Nothing => None,
        };
        let seen = strip.map_or(Cow::Borrowed(target.as_str()), |it| it.rest_of(target));
        urls.iter().map(|url| format!("{url}{seen}")).collect()
    }

    /// The other routes that match, each with why `winner` comes before it.
    fn beaten(&self, winner: &'a Route) -> impl Iterator<Item = (&'a Arc<Route>, String)> {
        let others = self.candidates.iter().filter(|it| it.met == Met::Yes).skip(1);
        others.map(|it| (it.route, winner.precedence_over(it.route).to_string()))
    }

    /// The routes of which the request fails a condition, each with what it fails. If none takes it, those
    /// for other methods as well.
    fn failed(&self) -> impl Iterator<Item = (&'a Arc<Route>, String)> {
        let failed = self.candidates.iter().filter(|it| it.met != Met::Yes).map(|it| it.route);
        let others = match self.found {
            Found::Nothing => self.config.table.for_other_methods(&self.head),
            Found::Document | Found::Unclear(_) | Found::Route(_) => Vec::new(),
        };
        failed.chain(others).map(|it| (it, self.unmet_by_request(it).join(", ")))
    }

    /// What `route` needs and the request does not have.
    fn unmet_by_request(&self, route: &Route) -> Vec<String> {
        let (pattern, method) = (&route.pattern, self.head.method);
        let other_method = (!pattern.admits_method(method))
            .then(|| format!("takes {}, not {method}", pattern.methods().join(", ")));
        other_method.into_iter().chain(route.conditions.unmet_by(&self.head)).collect()
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "request   {} {}", self.head.method, self.head.target)?;
        if let Some(foreign) = self.foreign {
            let public = self.config.public_url.authority();
            writeln!(
                out,
                "note      {foreign:?} is not the public URL's {public:?}; only the path counts here"
            )?;
        }
        match self.found {
            Found::Document => {
                writeln!(out, "answer    200: what the gateway publishes about its prices (`discovery`)")?;
                writeln!(out, "costs     nothing")?;
            }
            Found::Unclear(why) => writeln!(out, "answer    400: {why}")?,
            Found::Nothing => self.write_unmatched(out)?,
            Found::Route(winner) => self.write_winner(winner, out)?,
        }
        for (other, why) in self.failed() {
            writeln!(out, "fails     {} (`{}`): {why}", other.name, other.pattern)?;
        }
        Ok(())
    }

    fn write_unmatched(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "route     none")?;
        match &self.config.unmatched {
            Unmatched::NotFound => writeln!(out, "answer    404"),
            Unmatched::Free(upstream) => {
                writeln!(out, "costs     nothing (`unmatched` is free)")?;
                self.write_destinations(upstream, out)
            }
        }
    }

    fn write_winner(&self, winner: &'a Arc<Route>, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "route     {} (`{}`)", winner.name, winner.pattern)?;
        if !winner.conditions.is_empty() {
            writeln!(out, "meets     {}", winner.conditions)?;
        }
        match self.beaten(winner).next() {
            Some((_, why)) => writeln!(out, "why       {why}")?,
            None => writeln!(out, "why       no other route covers it")?,
        }
        self.write_price(winner, out)?;
        write_rules(winner, out)?;
        if self.head.method.eq_ignore_ascii_case("OPTIONS") {
            writeln!(out, "preflight answered by the {}", self.who_answers_preflights(winner))?;
        }
        self.write_destinations(&winner.upstream, out)?;
        for (other, why) in self.beaten(winner) {
            writeln!(out, "beaten    {} (`{}`): {why}", other.name, other.pattern)?;
        }
        Ok(())
    }

    fn write_price(&self, route: &Route, out: &mut impl Write) -> io::Result<()> {
        let grants = match &route.access {
            Access::Free => return writeln!(out, "costs     nothing"),
            Access::Priced(listed) => {
                match &route.meter {
                    Some(plan) => metered::write(plan, self.data, out)?,
                    None => write_cost(listed.price, out)?,
                }
                listed.grants
            }
            Access::Calls(prices) => {
                match self.data.map(|data| prices.quote(data.as_bytes())) {
                    None => prices
                        .lines()
                        .try_for_each(|(line, price)| writeln!(out, "call      {line}: {price}"))?,
                    Some(Ok(Quote::Free)) => writeln!(out, "costs     nothing")?,
                    Some(Ok(Quote::Costs { part, amount, .. })) => {
                        write_cost(amount, out)?;
                        writeln!(out, "buys      {}", route.name.part(&part))?;
                    }
                    Some(Err(fault)) => writeln!(out, "answer    {}: {fault}", refused_with(&fault))?,
                }
                if prices.bills.takes_enclosed() {
                    writeln!(out, "bills     {}", prices.bills.as_str())?;
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
            PreflightRule::Gateway if self.config.table.has_price(&self.head) => "gateway",
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
            Ok(Quote::Costs { part, amount, .. }) => {
                let mut quote = views::price(amount);
                quote.insert("free".to_owned(), false.into());
                quote.insert("buys".to_owned(), part.into());
                quote.into()
            }
            Err(fault) => json!({ "answer": refused_with(&fault), "error": fault.to_string() }),
        })
    }

    /// What is held for `--data` on the winning route; `None` if it does not matter there.
    fn metered(&self, route: Option<&Arc<Route>>) -> Option<Value> {
        let plan = route.and_then(|it| it.meter.as_ref())?;
        self.data.map(|data| metered::json(plan, data))
    }

    fn write_destinations(&self, upstream: &UpstreamName, out: &mut impl Write) -> io::Result<()> {
        self.destinations(upstream).iter().try_for_each(|url| writeln!(out, "goes to   {upstream}: {url}"))
    }

    fn json(&self) -> Value {
        let (winner, why) = match self.found {
            Found::Route(route) => (Some(route), None),
            Found::Unclear(why) => (None, Some(why.to_string())),
            Found::Document | Found::Nothing => (None, None),
        };
        let upstream = match (self.found, &self.config.unmatched) {
            (Found::Route(winner), _) => Some(&winner.upstream),
            (Found::Nothing, Unmatched::Free(upstream)) => Some(upstream),
            (
                Found::Document | Found::Unclear(_) | Found::Nothing,
                Unmatched::Free(_) | Unmatched::NotFound,
            ) => None,
        };
        let told = |(route, why): (&Arc<Route>, String)| json!({ "route": views::route(route), "why": why });
        json!({
            "method": self.head.method,
            "host": self.head.host.and_then(RequestHost::name),
            "target": self.head.target.as_str(),
            "foreign_authority": self.foreign,
            "document": matches!(self.found, Found::Document),
            "unclear": why,
            "route": winner.map(|route| views::route(route)),
            "beaten": winner.map(|it| self.beaten(it).map(told).collect::<Vec<_>>()).unwrap_or_default(),
            "failed": self.failed().map(told).collect::<Vec<_>>(),
            "call": self.quote(winner),
            "metered": self.metered(winner),
            "mechanisms": winner.filter(|it| !matches!(it.access, Access::Free)).map(|it| self.mechanisms(it)),
            "upstream": upstream.map(UpstreamName::as_str),
            "goes_to": upstream.map(|it| self.destinations(it)).unwrap_or_default(),
        })
    }
}

fn write_cost(price: Cost, out: &mut impl Write) -> io::Result<()> {
    let when =
        if price.raw().is_some() { "" } else { ", in XNO by the rate of the moment at which it is billed" };
    writeln!(out, "costs     {}{when}", price.in_full())
}

/// The rules beside the price, a line each.
fn write_rules(route: &Route, out: &mut impl Write) -> io::Result<()> {
    let Some(rules) = route.rules.as_deref() else { return Ok(()) };
    for (word, clients, payers) in [
        ("only for ", &rules.clients.allow, &rules.payers.allow),
        ("not for  ", &rules.clients.deny, &rules.payers.deny),
    ] {
        let named: Vec<_> =
            clients.iter().map(ToString::to_string).chain(payers.iter().map(ToString::to_string)).collect();
        if !named.is_empty() {
            writeln!(out, "{word} {}", named.join(", "))?;
        }
    }
    if let Some(RateLimit { requests, per, burst, by }) = rules.limit {
        let per = humantime::format_duration(per);
        writeln!(out, "limit     {requests} in {per} for each {}, {burst} at once", by.as_str())?;
    }
    if let Some(free) = rules.free_per_day {
        writeln!(out, "free      {free} a day for each client")?;
    }
    match rules.enforcement {
        Enforcement::All => Ok(()),
        Enforcement::Percent(share) => writeln!(out, "billed    {share} % of the clients"),
        Enforcement::Shadow => writeln!(out, "billed    nobody (mode: shadow)"),
    }
}
