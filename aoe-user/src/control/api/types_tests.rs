use super::*;

#[test]
fn requests_are_what_the_documentation_says() {
    let parse = serde_json::from_str::<ControlRequest>;
    let all = ControlRequest::State {
        exports: vec![],
        every_ms: None,
    };
    assert_eq!(parse(r#"{"call":"state"}"#).unwrap(), all);
    let dry = ControlRequest::Reload { dry_run: true };
    assert_eq!(parse(r#"{"call":"reload","dry_run":true}"#).unwrap(), dry);
    assert!(!dry.is_for_root() && ControlRequest::Reload { dry_run: false }.is_for_root());
    assert!(parse(r#"{"call":"reboot"}"#).is_err());
    assert!(
        parse(r#"{"call":"state","export":"e1.1"}"#).is_err(),
        "a typo is no request for everything"
    );
}
