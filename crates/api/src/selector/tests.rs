use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&'static str, &'static str)]) -> BTreeMap<&'static str, &'static str> {
    pairs.iter().copied().collect()
}

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn canonical_text() {
    for (text, canonical) in [
        ("", "all()"),
        (" \t", "all()"),
        ("all()", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("has( a.b/c )", "has(a.b/c)"),
        ("!has(a)", "!has(a)"),
        ("!!has(a)", "has(a)"),
        ("! ! ! has(a)", "!has(a)"),
        ("a=='b'", "a == \"b\""),
        ("a == 'say \"b\"'", "a == 'say \"b\"'"),
        ("a == \"it's\"", "a == \"it's\""),
        ("a != 'b'", "a != \"b\""),
        ("a contains 'b'", "a contains \"b\""),
        ("a starts with 'b'", "a starts with \"b\""),
        ("a startswith 'b'", "a starts with \"b\""),
        ("a ends  with 'b'", "a ends with \"b\""),
        ("a endswith 'b'", "a ends with \"b\""),
        ("a in {'c', \"b\", 'c'}", "a in {\"b\", \"c\"}"),
        ("a in{'c',}", "a in {\"c\"}"),
        ("a not in {}", "a not in {}"),
        ("a notin {'b'}", "a not in {\"b\"}"),
        ("in in {'in'}", "in in {\"in\"}"),
        ("contains contains 'all'", "contains contains \"all\""),
        ("has == 'a' && all == 'b'", "(has == \"a\" && all == \"b\")"),
        ("a == '1' || b == '2' && c == '3'", "(a == \"1\" || (b == \"2\" && c == \"3\"))"),
        ("(a == '1' || b == '2') && !(c == '3')", "((a == \"1\" || b == \"2\") && !c == \"3\")"),
        ("((has(a)))", "has(a)"),
        ("has(a)&&has(b)&&has(c)", "(has(a) && has(b) && has(c))"),
        ("(has(a)&&has(b))&&has(c)", "((has(a) && has(b)) && has(c))"),
        ("a == 'ä'", "a == \"ä\""),
    ] {
        let selector = parse(text);
        assert_eq!(selector.to_string(), canonical, "{text}");
        assert_eq!(parse(canonical), selector, "{canonical}");
        assert_eq!(selector.source(), text);
    }
}

#[test]
fn ids_are_calicos() {
    assert_eq!(parse("").id(), "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    assert_eq!(parse("a == 'b'").id(), parse("a==\"b\"").id());
    assert_ne!(parse("a == 'b'").id(), parse("a != 'b'").id());
}

#[test]
fn evaluation() {
    let web = labels(&[("app", "web"), ("tier", "front-end"), ("empty", "")]);
    for (text, expected) in [
        ("all()", true),
        ("global()", true),
        ("has(app)", true),
        ("has(none)", false),
        ("app == 'web'", true),
        ("none == ''", false),
        ("empty == ''", true),
        ("app != 'web'", false),
        ("none != 'web'", true),
        ("none not in {'web'}", true),
        ("app not in {'web'}", false),
        ("app in {'web', 'db'}", true),
        ("app in {}", false),
        ("app not in {}", true),
        ("none in {'web'}", false),
        ("tier contains '-'", true),
        ("none contains ''", false),
        ("tier starts with 'front'", true),
        ("tier ends with 'front'", false),
        ("tier ends with 'end'", true),
        ("!has(none) && app == 'web' || has(none)", true),
        ("!(app == 'web' && has(tier))", false),
    ] {
        assert_eq!(parse(text).matches(&web), expected, "{text}");
    }
}

#[test]
fn mistakes_have_a_column() {
    for (text, expected) in [
        (
            "a",
            "column 2: an operator (==, !=, in, not in, contains, starts with, ends with) is expected here, not the end",
        ),
        (
            "a b",
            "column 3: an operator must follow the label: ==, !=, in, not in, contains, starts with or ends with",
        ),
        ("a = 'b'", "column 3: a single = means nothing: write =="),
        ("a == b", "column 6: a quoted string is expected here, not \"b\""),
        ("a == 'b", "column 6: this string has no closing '"),
        ("a == 'b' & c", "column 10: a single & means nothing: write &&"),
        ("a == 'b' | c", "column 10: a single | means nothing: write ||"),
        ("a == 'b' c == 'd'", "column 10: &&, || or the end is expected here, not \"c\""),
        ("(a == 'b'", "column 10: &&, || or ) is expected here, not the end"),
        ("a == 'b')", "column 9: &&, || or the end is expected here, not )"),
        ("a in 'b'", "column 6: { is expected here, not the string \"b\""),
        ("a in {b}", "column 7: a quoted string or } is expected here, not \"b\""),
        ("a in {'b' 'c'}", "column 11: a comma or } is expected here, not the string \"c\""),
        ("a not on {'b'}", "column 3: \"not\" must be followed by \"in\""),
        ("a starts 'b'", "column 3: \"starts\" must be followed by \"with\""),
        ("has()", "column 5: has() needs a label name"),
        ("has(a", "column 6: has( is not closed with )"),
        ("all(a)", "column 5: all() takes nothing in its parentheses"),
        ("&& a == 'b'", "column 1: a label, has(), all(), ! or ( is expected here, not &&"),
        ("a == 'b' &&", "column 12: a label, has(), all(), ! or ( is expected here, not the end"),
        (
            "a == 'ä' && ö",
            "column 13: unexpected character: a label has letters, digits, '_', '.', '/' and '-'",
        ),
        ("a == 'b'\n", "column 9: unexpected character: a label has letters, digits, '_', '.', '/' and '-'"),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    assert!(Selector::parse(&format!("has({})", "a".repeat(512))).is_ok());
    assert!(Selector::parse(&format!("has({})", "a".repeat(513))).is_err());
    let deep = format!("{}has(a){}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Selector::parse(&deep).unwrap_err().message.contains("nested parentheses"));
    assert_eq!(parse(&format!("{}has(a)", "!".repeat(100_001))), parse("!has(a)"));
}

#[test]
fn restrictions_of_labels() {
    let of = |text: &str| parse(text).restrictions();
    let values = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>());
    let present = |one_of| Restriction { must_be_present: true, must_be_absent: false, one_of };
    assert_eq!(of("a == 'b'")["a"], present(values(&["b"])));
    assert_eq!(of("a in {'b', 'c'} && a in {'c', 'd'}")["a"], present(values(&["c"])));
    assert_eq!(of("a == 'b' && a == 'c'")["a"], present(values(&[])));
    assert_eq!(of("a == 'b' || a == 'c'")["a"], present(values(&["b", "c"])));
    assert_eq!(of("a == 'b' || has(a)")["a"], present(None));
    assert_eq!(of("a == 'b' || c == 'd'"), BTreeMap::new());
    assert_eq!(of("a starts with 'b' && c != 'd'"), BTreeMap::from([("a".to_owned(), present(None))]));
    assert!(of("!has(a)")["a"].must_be_absent);
    assert_eq!(of("!(a == 'b')"), BTreeMap::new());
    assert_eq!(of("all()"), BTreeMap::new());
}

#[test]
fn kubernetes_selectors() {
    let convert = |json: serde_json::Value| {
        serde_json::from_value::<LabelSelector>(json).unwrap().to_selector().to_string()
    };
    assert_eq!(convert(serde_json::json!({})), "all()");
    assert_eq!(
        convert(serde_json::json!({"matchLabels": {"b": "2", "a": "1"}})),
        "(a == \"1\" && b == \"2\")"
    );
    assert_eq!(
        convert(serde_json::json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["y", "x"]},
            {"key": "c", "operator": "NotIn", "values": ["z"]},
            {"key": "d", "operator": "Exists"},
            {"key": "e", "operator": "DoesNotExist"},
        ]})),
        "(a == \"1\" && b in {\"x\", \"y\"} && c not in {\"z\"} && has(d) && !has(e))"
    );
    assert_eq!(convert(serde_json::json!({"matchLabels": {"a": "1"}})), "a == \"1\"");
}

#[test]
fn combining() {
    let (a, b) = (parse("has(a)"), parse("b == '1' || has(c)"));
    assert_eq!(a.and(&b).to_string(), "(has(a) && (b == \"1\" || has(c)))");
    assert_eq!(a.and(&Selector::all()), a);
    assert_eq!(Selector::all().and(&b), b);
    assert_eq!(b.with_label_prefix("pcns.").to_string(), "(pcns.b == \"1\" || has(pcns.c))");
    assert_eq!(Selector::from(Expr::Or(Vec::new())).to_string(), "!all()");
}

fn expressions() -> impl Strategy<Value = Expr> {
    let label = "[a-c]{1,2}";
    let value =
        prop_oneof!["[a-z]{0,3}", Just("it's".to_owned()), Just("a\"b".to_owned()), Just("all()".to_owned())];
    let set = prop::collection::btree_set(value.clone(), 0..3);
    let leaf = prop_oneof![
        Just(Expr::All),
        Just(Expr::Global),
        label.prop_map(Expr::Has),
        (label, value.clone()).prop_map(|(l, v)| Expr::Eq(l, v)),
        (label, value.clone()).prop_map(|(l, v)| Expr::Ne(l, v)),
        (label, value.clone()).prop_map(|(l, v)| Expr::Contains(l, v)),
        (label, value.clone()).prop_map(|(l, v)| Expr::StartsWith(l, v)),
        (label, value).prop_map(|(l, v)| Expr::EndsWith(l, v)),
        (label, set.clone()).prop_map(|(l, v)| Expr::In(l, v)),
        (label, set).prop_map(|(l, v)| Expr::NotIn(l, v)),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Expr::And),
            prop::collection::vec(inner, 0..4).prop_map(Expr::Or),
        ]
    })
}

fn label_maps() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-c]{1,2}", "[a-z]{0,2}", 0..5)
}

proptest! {
    #[test]
    fn canonical_text_parses_to_the_same(expr in expressions()) {
        let selector = Selector::from(expr);
        let again = Selector::parse(&selector.to_string()).unwrap();
        prop_assert_eq!(&again, &selector);
        prop_assert_eq!(again.id(), selector.id());
    }

    #[test]
    fn simplifying_keeps_the_meaning(expr in expressions(), labels in label_maps()) {
        let direct = expr.matches(&labels);
        prop_assert_eq!(Selector::from(expr).matches(&labels), direct);
    }

    #[test]
    fn matches_satisfy_the_restrictions(expr in expressions(), labels in label_maps()) {
        let selector = Selector::from(expr);
        if selector.matches(&labels) {
            for (label, restriction) in selector.restrictions() {
                let value = labels.get(&label);
                prop_assert!(!restriction.must_be_present || value.is_some());
                prop_assert!(!restriction.must_be_absent || value.is_none());
                prop_assert!(restriction.one_of.is_none_or(|set| value.is_some_and(|v| set.contains(v))));
            }
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn no_words_panic(words in prop::collection::vec(prop::sample::select(vec![
        "a", "'b'", "==", "!=", "in", "not in", "{", "}", ",", "(", ")", "!", "&&", "||", "has(a)", "all()", "contains", "starts with", "ö", "=",
    ]), 0..14)) {
        let text = words.join(" ");
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
