//! Trees that are filters and trees that are not, and what they match.

use super::*;

fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn matches(filter: &str, pairs: &[(&str, &str)]) -> bool {
    let filter = Filter::parse(filter).unwrap_or_else(|fault| panic!("{filter}: {fault}"));
    let found = filter.matches(&tags(pairs));
    let again = Filter::parse(&filter.to_json()).unwrap();
    assert_eq!(again, filter, "as it is written down");
    found
}

#[test]
fn each_comparison_holds_for_what_it_says() {
    for (cmp, value, held_by, not_by) in [
        ("eq", r#""val":"a""#, &["a"][..], &["b", "A", "", "aa"][..]),
        ("neq", r#""val":"a""#, &["b", ""], &["a"]),
        ("in", r#""vals":["a","b"]"#, &["a", "b"], &["c", ""]),
        ("nin", r#""vals":["a","b"]"#, &["c", ""], &["a", "b"]),
        ("ex", r#""val":"""#, &["", "x"], &[]),
        ("nex", r#""vals":null"#, &[], &["", "x"]),
        ("sw", r#""val":"ab""#, &["ab", "abc"], &["a", "cab"]),
        ("ew", r#""val":"ab""#, &["ab", "cab"], &["b", "abc"]),
        ("ct", r#""val":"ab""#, &["ab", "cabc"], &["a b"]),
        ("gt", r#""val":"10""#, &["10.01", "11", "100", "010.5"], &["10", "9", "-11", "x", "", "1e3"]),
        ("gte", r#""val":"10""#, &["10", "10.0", "+10", "0010.00"], &["9.999999999999999999999", "ten"]),
        ("lt", r#""val":"-0.5""#, &["-0.51", "-1", "-10"], &["-0.5", "0", "-0.05", "."]),
        ("lte", r#""val":"0""#, &["0", "-0", "0.000", "-3"], &["0.1", ".5", "5."]),
    ] {
        let filter = format!(r#"{{"key":"k","cmp":"{cmp}",{value}}}"#);
        for held in held_by {
            assert!(matches(&filter, &[("other", "x"), ("k", held)]), "{filter} of {held}");
        }
        for not in not_by {
            assert!(!matches(&filter, &[("k", not)]), "{filter} of {not}");
        }
        let without = matches!(cmp, "neq" | "nin" | "nex");
        assert_eq!(matches(&filter, &[("other", "a")]), without, "{filter} of no such tag");
    }
}

#[test]
fn decimals_are_compared_exactly_however_long_they_are() {
    let long = "123456789012345678901234567890.000000000000000000000000000001";
    let filter = format!(r#"{{"key":"k","cmp":"gt","val":"{}"}}"#, &long[..long.len() - 1]);
    assert!(matches(&filter, &[("k", long)]) && !matches(&filter, &[("k", &long[..long.len() - 1])]));
}

#[test]
fn operators_join_what_their_nodes_say() {
    let (a, b) = (r#"{"key":"a","cmp":"eq","val":"1"}"#, r#"{"key":"b","cmp":"eq","val":"1"}"#);
    for (both, [one, other]) in
        [((true, true), ["1", "1"]), ((true, false), ["1", "2"]), ((false, false), ["2", "2"])]
    {
        let tags = [("a", one), ("b", other)];
        let (first, second) = both;
        assert_eq!(matches(&format!(r#"{{"op":"and","nodes":[{a},{b}]}}"#), &tags), first && second);
        assert_eq!(matches(&format!(r#"{{"op":"or","nodes":[{a},{b}]}}"#), &tags), first || second);
        assert_eq!(matches(&format!(r#"{{"op":"not","nodes":[{a}]}}"#), &tags), !first);
    }
}

#[test]
fn what_is_no_filter_is_refused_with_what_is_wrong() {
    for (tree, wrong) in [
        ("1", "tree of nodes"),
        (r#"{"op":1}"#, "tree of nodes"),
        ("{}", "no key"),
        (r#"{"key":"k"}"#, "neither op nor cmp"),
        (r#"{"key":"k","cmp":"like","val":"a"}"#, "unknown comparison"),
        (r#"{"op":"xor","nodes":[{"key":"k","cmp":"ex"}]}"#, "unknown operator"),
        (r#"{"op":"and"}"#, "no nodes"),
        (r#"{"op":"or","nodes":[]}"#, "no nodes"),
        (r#"{"op":"not","nodes":[]}"#, "one node"),
        (r#"{"op":"not","nodes":[{"key":"k","cmp":"ex"},{"key":"k","cmp":"ex"}]}"#, "one node"),
        (r#"{"cmp":"eq","val":"a"}"#, "no key"),
        (r#"{"key":"k","cmp":"eq"}"#, "one value"),
        (r#"{"key":"k","cmp":"gt","val":"1","vals":["1"]}"#, "one value"),
        (r#"{"key":"k","cmp":"in","val":"a"}"#, "in vals"),
        (r#"{"key":"k","cmp":"in","vals":[]}"#, "in vals"),
        (r#"{"key":"k","cmp":"ex","val":"a"}"#, "no value"),
        (r#"{"key":"k","cmp":"eq","val":"a","nodes":[{"key":"k","cmp":"ex"}]}"#, "no nodes"),
    ] {
        let fault = Filter::parse(tree).expect_err(tree);
        assert!(fault.0.contains(wrong), "{tree}: {fault}");
    }
}

#[test]
fn a_filter_is_bounded_in_nodes_depth_bytes_and_values() {
    let leaf = || FilterNode { key: "k".into(), cmp: "ex".into(), ..FilterNode::default() };
    let any = |nodes| FilterNode { op: "or".into(), nodes, ..FilterNode::default() };
    let wide = |leaves: usize| any((0..leaves).map(|_| leaf()).collect());
    assert!(Filter::of(&wide(FILTER_NODES_MAX - 1)).is_ok());
    assert!(Filter::of(&wide(FILTER_NODES_MAX)).unwrap_err().0.contains("64 nodes"));
    let deep = |depth: usize| (1..depth).fold(leaf(), |node, _| any(vec![node]));
    assert!(Filter::of(&deep(FILTER_DEPTH_MAX)).is_ok());
    assert!(Filter::of(&deep(FILTER_DEPTH_MAX + 1)).unwrap_err().0.contains("deeper"));
    let list = |values: usize, bytes: usize| FilterNode {
        cmp: "in".into(),
        vals: vec!["x".repeat(bytes); values],
        ..leaf()
    };
    assert!(Filter::of(&list(FILTER_VALUES_MAX, 1)).is_ok());
    assert!(Filter::of(&list(FILTER_VALUES_MAX + 1, 1)).unwrap_err().0.contains("256 values"));
    assert!(Filter::of(&list(1, FILTER_BYTES_MAX - 1)).is_ok());
    assert!(Filter::of(&list(1, FILTER_BYTES_MAX)).unwrap_err().0.contains("8192 bytes"));
}

#[test]
fn what_is_imposed_and_what_is_asked_both_hold() {
    let filter = |key: &str| Filter::parse(&format!(r#"{{"key":"{key}","cmp":"ex"}}"#)).ok();
    let both = Filters { asked: filter("a"), imposed: filter("b") };
    assert!(both.match_all(&tags(&[("a", "1"), ("b", "1")])));
    assert!(!both.match_all(&tags(&[("a", "1")])) && !both.match_all(&tags(&[("b", "1")])));
    assert!(Filters::default().match_all(&[]) && Filters::default().is_none() && !both.is_none());
}
