//! The price list by itself: what a body costs, and which bodies have no price at all.

use faregate::nano::Raw;
use faregate::routes::{Access, CallFault, CallPrices, MAX_BATCH, MAX_DEPTH, Quote};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ROUTES, method, tool};

fn prices(mcp: &str) -> CallPrices {
    let text = format!(
        "public_url: http://a.example\nlisten: {{ http: 127.0.0.1:1 }}\nnano: {{ nodes: [http://127.0.0.1:1], \
         pool: {{ seed_file: a }} }}\nupstreams: {{ api: {{ url: http://127.0.0.1:1 }} }}\nroutes:\n{mcp}"
    );
    let config = faregate::config::Config::parse(&text, "test", std::path::Path::new("/"), |_| None);
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    let Access::Calls(prices) = &config.table.routes()[0].access else { panic!("it is priced by call") };
    CallPrices::clone(prices)
}

fn listed() -> CallPrices {
    prices(ROUTES)
}

fn open(otherwise: &str) -> CallPrices {
    prices(&format!(
        "  - {{ match: POST /mcp, upstream: api, mcp: {{ methods: {{ tools/list: free, tools/call: 5 raw }}, \
         tools: {{ search: 10 raw }}, otherwise: {otherwise} }} }}"
    ))
}

/// What a body costs in raw, 0 for nothing, and which lines it buys.
fn cost(prices: &CallPrices, body: &str) -> Result<(u128, String), CallFault> {
    prices.quote(body.as_bytes()).map(|quote| match quote {
        Quote::Free => (0, String::new()),
        Quote::Costs { part, amount, .. } => (amount.get(), part),
    })
}

#[test]
fn each_call_costs_what_its_line_says() {
    let prices = listed();
    for (call, amount, part) in [
        (method("initialize"), 0, ""),
        (method("ping"), 0, ""),
        (method("tools/list"), 0, ""),
        (method("resources/read"), 2, "method:resources/*"),
        (tool("search"), 10, "tool:search"),
        (tool("render-big"), 100, "tool:render-*"),
        (tool("render-"), 100, "tool:render-*"),
        (tool("render-small"), 20, "tool:render-small"),
        (tool("help"), 0, ""),
        (tool("unlisted"), 5, "method:tools/call"),
        (tool("searching"), 5, "method:tools/call"),
        (json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }), 0, ""),
        (json!({ "jsonrpc": "2.0", "id": 7, "result": {} }), 0, ""),
        (json!({ "jsonrpc": "2.0", "id": "7", "error": { "code": -1, "message": "no" } }), 0, ""),
        // Without an id it is carried out all the same.
        (
            json!({ "jsonrpc": "2.0", "method": "tools/call", "params": { "name": "search" } }),
            10,
            "tool:search",
        ),
    ] {
        assert_eq!(cost(&prices, &call.to_string()), Ok((amount, part.to_owned())), "{call}");
    }
}

#[test]
fn what_is_on_no_line_is_refused_or_priced_but_never_free_by_itself() {
    let unlisted = [
        method("completion/complete"),
        method("tools/list/all"),
        method("Notifications/initialized"),
        method("notifications"),
        method("notifications/initialized"),
    ];
    for call in &unlisted {
        let text = call.to_string();
        assert!(matches!(cost(&listed(), &text), Err(CallFault::NotOffered(_))), "{call}");
        assert_eq!(cost(&open("7 raw"), &text), Ok((7, "otherwise".to_owned())), "{call}");
        assert_eq!(cost(&open("free"), &text), Ok((0, String::new())), "{call}");
    }
    assert!(matches!(cost(&listed(), &tool("secret").to_string()), Err(CallFault::NotOffered(_))));
    let only_tools = prices("  - { match: POST /mcp, upstream: api, mcp: { tools: { search: 1 raw } } }");
    assert!(matches!(cost(&only_tools, &tool("other").to_string()), Err(CallFault::NotOffered(_))));
    assert!(matches!(cost(&only_tools, &method("tools/list").to_string()), Err(CallFault::NotOffered(_))));
}

#[test]
fn a_batch_costs_the_sum_and_buys_the_same_in_any_order() {
    let prices = listed();
    let one = json!([tool("search"), method("ping"), tool("render-a"), tool("search")]);
    let other = json!([tool("render-b"), tool("search"), tool("search")]);
    let expected = Ok((120, "tool:render-*+tool:search+tool:search".to_owned()));
    assert_eq!(cost(&prices, &one.to_string()), expected);
    assert_eq!(cost(&prices, &other.to_string()), expected);
    assert_eq!(
        cost(&prices, &json!([tool("search")]).to_string()),
        cost(&prices, &tool("search").to_string())
    );
    assert_eq!(cost(&prices, &json!([method("ping"), method("ping")]).to_string()), Ok((0, String::new())));

    let many = |count: usize| Value::from(vec![tool("search"); count]).to_string();
    let (amount, part) = cost(&prices, &many(MAX_BATCH)).unwrap();
    assert_eq!(amount, 1000);
    assert!(part.starts_with("lines:") && part.len() < 100, "{part}");
    assert_ne!(cost(&prices, &many(MAX_BATCH - 1)).unwrap().1, part, "another batch is another thing");
    assert_eq!(cost(&prices, &many(MAX_BATCH + 1)), Err(CallFault::Batch));
    assert_eq!(cost(&prices, "[]"), Err(CallFault::Batch));
    // One that is refused takes the others with it.
    let mixed = json!([method("ping"), tool("secret")]).to_string();
    assert!(matches!(cost(&prices, &mixed), Err(CallFault::NotOffered(_))));
    let dear = prices_of(Raw::MAX);
    assert_eq!(cost(&dear, &json!([tool("a"), tool("a")]).to_string()), Err(CallFault::Sum));
}

fn prices_of(amount: Raw) -> CallPrices {
    prices(&format!(
        "  - {{ match: POST /mcp, upstream: api, mcp: {{ methods: {{ tools/call: {amount} raw }} }} }}"
    ))
}

/// Bodies in which one reader sees a free call and another a dear one, or which one reader takes and
/// another refuses.
#[test]
fn a_body_that_two_readers_could_read_differently_has_no_price() {
    let prices = listed();
    let refused = [
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"search"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"help","name":"search"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"help"},"params":{"name":"search"}}"#,
        // Equal once they are decoded.
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#,
        // Equal to a reader who does not mind letter case, as Go's is.
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"METHOD":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"help","NAME":"search"}}"#,
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"help\"},\"param\u{17f}\":{\"name\":\"search\"}}",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","Params":{}}"#,
        // A message and an answer at once.
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"},"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{"name":"search"}}"#,
        r#"{"jsonrpc":"2.0","result":{}}"#,
        // What follows, precedes, or is cut off.
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"}{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#,
        "\u{feff}{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",
        r#"{"jsonrpc":"2.0","id":1,"method":"ping""#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping",}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping" /* c */}"#,
        r#"{'jsonrpc':'2.0','id':1,'method':'ping'}"#,
        r#"{"jsonrpc":"2.0","id":NaN,"method":"ping"}"#,
        "",
        "   ",
        "null",
        "\"ping\"",
        "[1]",
        "[[]]",
        r#"[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]"#,
        // Not of the protocol.
        r#"{"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":["ping"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["help"]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"a":1}}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":null}}"#,
        // A name that somebody trims, cuts off or takes for another.
        r#"{"jsonrpc":"2.0","id":1,"method":"ping "}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call\u0000"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search\n"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s\u00e9arch"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#,
        // Numbers that not everybody can hold.
        r#"{"jsonrpc":"2.0","id":1e999,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":-1e999}}"#,
        r#"{"jsonrpc":"2.0","id":01,"method":"ping"}"#,
    ];
    for body in refused {
        let fault = prices.quote(body.as_bytes()).expect_err(body);
        assert!(!fault.is_not_offered(), "{body}: {fault}");
    }
}

#[test]
fn a_body_that_not_every_reader_can_hold_has_no_price() {
    let prices = listed();
    let deep = |depth: usize| {
        let (open, shut) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{open}{shut}}}}}"#)
    };
    assert!(prices.quote(deep(MAX_DEPTH - 2).as_bytes()).is_ok());
    for depth in [MAX_DEPTH - 1, 1000, 30_000] {
        assert!(matches!(prices.quote(deep(depth).as_bytes()), Err(CallFault::Json(_))), "{depth}");
    }
    for bytes in
        [&b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\"\xff\"}"[..], b"\xff\xfe{\0}\0"]
    {
        assert_eq!(prices.quote(bytes), Err(CallFault::NotUtf8));
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "a".repeat(129));
    assert!(matches!(prices.quote(long.as_bytes()), Err(CallFault::Name(_))));
}

#[test]
fn another_spelling_of_a_line_does_not_fall_to_a_cheaper_one() {
    for prices in [listed(), open("1 raw"), open("free")] {
        for call in [tool("Search"), tool("SEARCH"), method("Tools/Call"), method("TOOLS/LIST")] {
            let fault = cost(&prices, &call.to_string()).expect_err("it is refused");
            assert!(matches!(fault, CallFault::Spelling { .. }), "{call}: {fault}");
        }
    }
    assert!(matches!(cost(&listed(), &tool("Render-small").to_string()), Err(CallFault::Spelling { .. })));
    assert!(matches!(cost(&listed(), &tool("RENDER-x").to_string()), Err(CallFault::Spelling { .. })));
    // Escapes are no other spelling.
    let escaped =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools\/c\u0061ll","params":{"n\u0061me":"se\u0061rch"}}"#;
    assert_eq!(cost(&listed(), escaped).unwrap().0, 10);
}

proptest! {
    /// Whatever stands in a body, it never costs less than what serde_json's own reading of it does.
    #[test]
    fn no_body_is_cheaper_than_what_is_in_it(
        calls in prop::collection::vec((0_usize..6, "[a-zA-Z/\\-]{0,8}", prop::bool::ANY), 0..6),
        cut in 0_usize..400,
        junk in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let prices = listed();
        let names = ["search", "render-x", "help", "secret", "other"];
        let messages: Vec<Value> = calls.iter().map(|(at, word, id)| {
            let mut call = names.get(*at).map_or_else(|| method(word), |name| tool(name));
            if !id { call.as_object_mut().unwrap().remove("id"); }
            call
        }).collect();
        let mut body = Value::from(messages).to_string().into_bytes();
        for (offset, byte) in junk.iter().enumerate() {
            let at = (cut + offset * 37) % body.len();
            body[at] = *byte;
        }
        if let Ok(quote) = prices.quote(&body) {
            let amount = match quote { Quote::Free => 0, Quote::Costs { amount, .. } => amount.get() };
            let read: Value = serde_json::from_slice(&body).unwrap();
            let least: u128 = read.as_array().unwrap().iter().map(|call| {
                match (call["method"].as_str(), call["params"]["name"].as_str()) {
                    (Some("tools/call"), Some("search")) => 10,
                    (Some("tools/call"), Some("render-small")) => 20,
                    (Some("tools/call"), Some(name)) if name.starts_with("render-") => 100,
                    (Some("tools/call"), Some("help")) => 0,
                    (Some("tools/call"), Some(_)) => 5,
                    _ => 0,
                }
            }).sum();
            prop_assert!(amount >= least, "{}", String::from_utf8_lossy(&body));
        }
    }
}
