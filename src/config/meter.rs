//! A route's `meter`: how it charges for what is used.

use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use super::calls;
use super::document::below;
use super::judge::{Judge, Judged, all};
use super::mirror::{Given, MeterFile, Piece, PointersFile, RateFile, UsageFile};
use crate::nano::Raw;
use crate::routes::{Access, Grants, Listed, RefundRule};
use crate::usage::{JsonPointers, MAX_MODEL, MeterPlan, Overdraft, Per, Pointer, Rate, Rates, UsageSource};

/// The longest `within`, of a purse or of requests, in seconds.
pub(super) const MAX_WITHIN: u64 = 366 * 24 * 3600;
/// How long a purse can be used if nothing else is said, in seconds.
const DEFAULT_WITHIN: u64 = 24 * 3600;

/// The line for every model that has none of its own.
const ANY: &str = "*";

const DEPOSIT_HINT: &str = "write `deposit: 0.05 XNO`";
const USAGE_HINT: &str = "write one of: openai, anthropic, header, bytes, seconds; or `{ json: { input: /usage/in, output: /usage/out } }`";
const RATES_HINT: &str =
    "write `rates: { \"*\": { input: 2 XNO, output: 8 XNO, per: 1M } }`, with what `usage` counts";
const RATE_HINT: &str = "write an amount: `0.15 XNO`, `0 raw`";
const HOLD_HINT: &str = "write `hold: 0.002 XNO`: what one request may cost that does not say so itself";
const POINTER_HINT: &str = "write the place of one value, as RFC 6901 does: `/usage/input_tokens`";
const PER_HINT: &str = "write `1`, `1k` or `1M`";

vocabulary! {
    /// The words for who says what was used; `json` has no word of its own.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum SourceWord {
        OpenAi = "openai",
        Anthropic = "anthropic",
        Header = "header",
        Bytes = "bytes",
        Seconds = "seconds",
    }
    fn as_str;
}

vocabulary! {
    /// Who hears what a request cost, beside the answer's header or trailer.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum Announced {
        Stream = "stream",
    }
    fn as_str;
}

vocabulary! {
    /// What is done to have a stream's usage reported.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum IncludeUsage {
        Ask = "ask",
    }
    fn as_str;
}

/// The plan, and what becomes of what is left; `None` if the route has no meter. `prices` are the route's other keys that
/// say what it costs.
pub(super) fn plan(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    prices: [Option<String>; 5],
) -> Judged<Option<(Arc<MeterPlan>, RefundRule)>> {
    if !piece.is_given() {
        return Ok(None);
    }
    let mut outcome = Ok(());
    for path in prices.into_iter().flatten() {
        let key = path.rsplit('.').next().unwrap_or_default();
        let hint = "keep one of the two: a meter says by itself what is bought, and for how long (`within`)";
        outcome = Err(judge.fault(&path, format_args!("both `{key}` and `meter`"), hint));
    }
    let file: MeterFile = judge.section(piece)?;
    let source = source(judge, file.usage);
    let rates = match &source {
        Ok(source) => rates(judge, file.rates, source),
        Err(reported) => Err(*reported),
    };
    let deposit = judge.need_text(file.deposit, DEPOSIT_HINT, calls::raw);
    let place = file.hold.path.clone();
    let hold = judge.need_text(file.hold, HOLD_HINT, calls::raw);
    let hold = match (hold, deposit) {
        (Ok(hold), Ok(deposit)) if hold > deposit => {
            let message = "more than the deposit: a purse that was just paid for could not be used";
            Err(judge.fault(&place, message, "write less, or a larger `deposit`"))
        }
        (hold, _) => hold,
    };
    let place = file.include_usage.path.clone();
    let ask = judge.choice(file.include_usage, IncludeUsage::ALL, IncludeUsage::as_str);
    if let (Ok(Some(IncludeUsage::Ask)), Ok(source)) = (ask, &source)
        && *source != UsageSource::OpenAi
    {
        let hint = "leave `include_usage` out: only OpenAI's API has this option";
        outcome = Err(judge.fault(&place, format_args!("together with `usage: {}`", source.as_str()), hint));
    }
    let refund = judge.choice(file.refund, RefundRule::ALL, RefundRule::as_str);
    let plan = all!(MeterPlan {
        deposit,
        seconds: judge.seconds(file.within, 1..=MAX_WITHIN, DEFAULT_WITHIN),
        source,
        rates,
        hold,
        overdraft: judge
            .choice(file.overdraft, Overdraft::ALL, Overdraft::as_str)
            .map(Option::unwrap_or_default),
        announce: judge.choice(file.announce, Announced::ALL, Announced::as_str).map(|it| it.is_some()),
        ask_usage: ask.map(|it| it.is_some()),
    })?;
    outcome?;
    Ok(Some((Arc::new(plan), refund?.unwrap_or_default())))
}

/// What a payment buys on a metered route.
pub(super) fn access(plan: &MeterPlan) -> Access {
    Access::Priced(Listed { price: plan.deposit.into(), grants: Grants::of_balance(plan.seconds) })
}

fn source(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<UsageSource> {
    if matches!(&piece.given, Given::Is(Value::Mapping(_))) {
        let file: UsageFile = judge.section(piece)?;
        return pointers(judge, file.json).map(UsageSource::Json);
    }
    judge.need_text(as_text(piece), USAGE_HINT, |text| -> Result<UsageSource, String> {
        let word = SourceWord::ALL.into_iter().find(|it| it.as_str() == text);
        Ok(match word.ok_or_else(|| format!("unknown word {text:?}"))? {
            SourceWord::OpenAi => UsageSource::OpenAi,
            SourceWord::Anthropic => UsageSource::Anthropic,
            SourceWord::Header => UsageSource::Header,
            SourceWord::Bytes => UsageSource::Bytes,
            SourceWord::Seconds => UsageSource::Seconds,
        })
    })
}

fn pointers(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<JsonPointers> {
    let place = piece.path.clone();
    let file: PointersFile = judge.need_section(piece, USAGE_HINT)?;
    let mut pointer = |piece: Piece<String>| judge.text(piece, POINTER_HINT, str::parse::<Pointer>);
    let pointers = all!(JsonPointers {
        model: pointer(file.model),
        input: pointer(file.input),
        cached: pointer(file.cached),
        output: pointer(file.output),
        tokens: pointer(file.tokens),
        cost: pointer(file.cost),
    })?;
    let JsonPointers { model, input, cached, output, tokens, cost } = &pointers;
    let counts = [input, cached, output, tokens];
    if cost.is_some() == counts.iter().any(|it| it.is_some()) {
        let hint = "name the places of counts (`input` and `output`, or `tokens`), or that of a `cost`";
        return Err(judge.fault(&place, "either counts or a cost", hint));
    }
    if cached.is_some() && input.is_none() {
        let hint = "name the place of `input` too: the tokens from a cache are a part of it";
        return Err(judge.fault(&below(&place, "cached"), "`cached` without `input`", hint));
    }
    let all: Vec<_> = [model, input, cached, output, tokens, cost].into_iter().flatten().collect();
    let overlap =
        all.iter().enumerate().any(|(index, one)| all.iter().take(index).any(|it| it.overlaps(one)));
    if overlap {
        return Err(judge.fault(&place, "one of these places is another, or within it", POINTER_HINT));
    }
    Ok(pointers)
}

/// The keys of a line of rates that something can be charged by.
fn charged(source: &UsageSource) -> Vec<&'static str> {
    match source {
        UsageSource::OpenAi => vec!["input", "cached", "output"],
        UsageSource::Anthropic => vec!["input", "cached", "cache_write", "output"],
        UsageSource::Json(pointers) => {
            let known = [
                ("input", &pointers.input),
                ("cached", &pointers.cached),
                ("output", &pointers.output),
                ("tokens", &pointers.tokens),
            ];
            known.into_iter().filter(|(_, it)| it.is_some()).map(|(key, _)| key).collect()
        }
        UsageSource::Header => Vec::new(),
        UsageSource::Bytes => vec!["bytes"],
        UsageSource::Seconds => vec!["seconds"],
    }
}

fn rates(judge: &mut Judge<'_>, piece: Piece<Value>, source: &UsageSource) -> Judged<Rates> {
    let place = piece.path.clone();
    if source.says_amount() {
        let message = "`rates`, where the upstream says amounts";
        let hint = "leave `rates` out, or write a `usage` that counts";
        return if piece.is_given() { Err(judge.fault(&place, message, hint)) } else { Ok(Rates::none()) };
    }
    let Value::Mapping(lines) = judge.need(piece, RATES_HINT)? else {
        return Err(judge.fault(&place, "names of models and their rates are expected here", RATES_HINT));
    };
    let knows_models = match source {
        UsageSource::OpenAi | UsageSource::Anthropic => true,
        UsageSource::Json(pointers) => pointers.model.is_some(),
        UsageSource::Header | UsageSource::Bytes | UsageSource::Seconds => false,
    };
    let has_any = lines.contains_key(ANY);
    let rates = lines_of(judge, &place, lines, source, knows_models)?;
    if rates.is_empty() || (!knows_models && !has_any) {
        return Err(judge.fault(&place, "no rate for `\"*\"`, which is everything here", RATES_HINT));
    }
    if rates.iter().all(Rate::is_free) {
        let hint = "give something a rate above zero, or write `free: true` instead of `meter`";
        return Err(judge.fault(&place, "nothing costs anything", hint));
    }
    Ok(Rates::new(rates))
}

fn lines_of(
    judge: &mut Judge<'_>,
    place: &str,
    lines: Mapping,
    source: &UsageSource,
    knows_models: bool,
) -> Judged<Vec<Rate>> {
    let (mut rates, mut outcome) = (Vec::new(), Ok(()));
    for (name, value) in lines {
        let name = name.as_str().unwrap_or_default();
        let here = below(place, name);
        if !knows_models && name != ANY {
            let hint = "write `\"*\"`: with this `usage` nobody says which model was used";
            outcome = Err(judge.fault(&here, "a rate that no answer can have", hint));
            continue;
        }
        let is_good = (1..=MAX_MODEL).contains(&name.len()) && !name.chars().any(char::is_control);
        if !is_good {
            let hint = format!("write its name as requests do: at most {MAX_MODEL} bytes");
            outcome = Err(judge.fault(&here, "no model has such a name", &hint));
            continue;
        }
        match line(judge, Piece::new(here, Some(value)), name, source) {
            Ok(rate) => rates.push(rate),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| rates)
}

fn line(judge: &mut Judge<'_>, piece: Piece<Value>, name: &str, source: &UsageSource) -> Judged<Rate> {
    let place = piece.path.clone();
    let file: RateFile = judge.section(piece)?;
    let charged = charged(source);
    let mut is_charged = false;
    let mut outcome = Ok(());
    let mut amount = |judge: &mut Judge<'_>, piece: Piece<String>| -> Judged<Option<Raw>> {
        let key = piece.path.rsplit('.').next().unwrap_or_default().to_owned();
        if !piece.is_given() || charged.contains(&key.as_str()) {
            is_charged |= piece.is_given();
            return judge.text(piece, RATE_HINT, Raw::with_unit);
        }
        let message = format!("`usage: {}` counts no `{key}` here", source.as_str());
        let hint = format!("what it counts: {}", charged.join(", "));
        let reported = judge.fault(&piece.path, message, &hint);
        outcome = Err(reported);
        Err(reported)
    };
    let input = amount(judge, file.input);
    let cached = amount(judge, file.cached);
    let cache_write = amount(judge, file.cache_write);
    let output = amount(judge, file.output);
    let tokens = amount(judge, file.tokens);
    let bytes = amount(judge, file.bytes);
    let seconds = amount(judge, file.seconds);
    let per = per(judge, file.per, source);
    outcome?;
    if !is_charged {
        return Err(judge.fault(&place, "no rate on this line", RATES_HINT));
    }
    // What nothing is said of is free; of the input, it is input as any other.
    let or_free = |it: Judged<Option<Raw>>| it.map(Option::unwrap_or_default);
    let or_input = |it: Judged<Option<Raw>>| it.and_then(|it| it.map_or_else(|| or_free(input), Ok));
    let (cached, cache_write) = (or_input(cached), or_input(cache_write));
    all!(Rate {
        line: Judged::Ok(name.to_owned()),
        input: or_free(input),
        cached,
        cache_write,
        output: or_free(output),
        tokens: or_free(tokens),
        bytes: or_free(bytes),
        seconds: or_free(seconds),
        per,
    })
}

fn per(judge: &mut Judge<'_>, piece: Piece<Value>, source: &UsageSource) -> Judged<Per> {
    let path = piece.path.clone();
    let default = if *source == UsageSource::Seconds { Per::One } else { Per::Million };
    let Some(value) = judge.get(piece, PER_HINT)? else { return Ok(default) };
    let word = value.as_u64().map_or_else(|| value.as_str().map(str::to_owned), |it| Some(it.to_string()));
    let per = word.and_then(|word| Per::ALL.into_iter().find(|it| it.as_str() == word));
    per.ok_or_else(|| judge.fault(&path, "not a number of units that a rate can be for", PER_HINT))
}

/// A value of which only the text is of use.
fn as_text(piece: Piece<Value>) -> Piece<String> {
    let given = match piece.given {
        Given::Missing => Given::Missing,
        Given::Empty => Given::Empty,
        Given::Is(value) => return Piece::new(piece.path, Some(value)),
        Given::Wrong(error) => Given::Wrong(error),
    };
    Piece { path: piece.path, given }
}
