//! Which transports are served, and where: all are on here, and most are off in Centrifugo.

use crate::config::centrifugo::convert;
use crate::config::centrifugo::keys::Concern;
use crate::config::centrifugo::output::SettingSource;
use crate::config::centrifugo::tree::{TreeNode, TreeValue, json_text};
use crate::config::centrifugo::{GivenKey, Import};
use crate::config::fault::SettingOrigin;
use crate::config::value::quote;

/// Transports that are off until they are switched on.
const SWITCHED: [&str; 5] = ["http_stream", "sse", "uni_websocket", "uni_http_stream", "uni_sse"];

impl Import {
    /// The paths of transports; one that is not served has none.
    pub(super) fn transports(&mut self) {
        let is_off = self.flag_of("websocket.disabled");
        self.path("websocket", !is_off, "websocket.disabled");
        let mut emulated = false;
        for transport in SWITCHED {
            let switch = format!("{transport}.enabled");
            let is_on = self.flag_of(&switch);
            emulated |= is_on && matches!(transport, "http_stream" | "sse");
            self.path(transport, is_on, &switch);
        }
        // Of use to these two alone.
        self.path("emulation", emulated, "http_stream.enabled");
        self.statuses();
    }

    /// Where a transport is served, if not where it is by itself.
    fn path(&mut self, transport: &str, is_on: bool, switch: &str) {
        let ours = format!("client.paths.{transport}");
        if is_on {
            if let Some((prefix, given)) = self.text_of(&format!("{transport}.handler_prefix")) {
                self.output.set(&ours, quote(&prefix), given.source());
            }
            return;
        }
        let said = self.given.get(switch).filter(|_| transport != "emulation").map(GivenKey::source);
        let default = || SettingSource { key: switch.to_string(), origin: SettingOrigin::Default };
        self.output.set(&ours, quote(""), said.unwrap_or_else(default));
    }

    /// Statuses in place of a stream that ends, for connects that are refused.
    fn statuses(&mut self) {
        let mut statuses: Vec<String> = Vec::new();
        let mut source = None;
        for transport in ["uni_sse", "uni_http_stream"] {
            let section = format!("{transport}.connect_code_to_http_response");
            // Before version 6 it was one table.
            let whole = self.given.get(&section).cloned();
            let part = |import: &Import, key: &str| {
                let of_table = |whole: &GivenKey| {
                    let node = whole.node.get(key)?.clone();
                    Some(GivenKey { node, said: format!("{}.{key}", whole.said) })
                };
                import.given.get(&format!("{section}.{key}")).cloned().or_else(|| of_table(whole.as_ref()?))
            };
            let is_on = part(self, "enabled").is_some_and(|on| convert::flag(&on.node) == Ok(true));
            let Some(transforms) = part(self, "transforms").filter(|_| is_on) else { continue };
            match read_statuses(&transforms.node) {
                Ok((read, has_bodies)) => {
                    statuses.extend(
                        read.into_iter().filter(|status| !statuses.contains(status)).collect::<Vec<_>>(),
                    );
                    if has_bodies {
                        let (said, origin) =
                            (format!("{}.to.body", transforms.said), transforms.node.origin.clone());
                        let why = "the body is a problem document (RFC 9457)";
                        self.missing(Concern::Comfort, &[&said], &said, &origin, why);
                    }
                    source = Some(transforms.source());
                }
                Err(problem) => self.wrong(&transforms, problem),
            }
        }
        if let Some(source) = source {
            self.output.set("client.connect_statuses", convert::list(&statuses), source);
        }
    }
}

/// `code=status` of each, and whether one has a body of its own.
fn read_statuses(node: &TreeNode) -> Result<(Vec<String>, bool), String> {
    let parsed;
    let node = match &node.value {
        TreeValue::Loose(text) | TreeValue::Text(text) => {
            parsed = json_text(text, &node.origin).ok_or_else(|| "is no JSON".to_string())?;
            &parsed
        }
        _ => node,
    };
    let TreeValue::List(items) = &node.value else { return Err("is not a list".to_string()) };
    let mut has_bodies = false;
    let statuses = items.iter().map(|item| {
        let number = |node: Option<&TreeNode>| -> Result<u64, String> {
            let number = node.map_or(Ok(None), convert::number)?;
            number.ok_or_else(|| "lacks a code or a status".to_string())
        };
        let to = item.get("to");
        has_bodies |=
            to.and_then(|to| to.get("body")).and_then(TreeNode::plain).is_some_and(|body| !body.is_empty());
        let status = number(to.and_then(|to| to.get("status_code")))?;
        Ok(format!("{}={status}", number(item.get("code"))?))
    });
    let statuses = statuses.collect::<Result<Vec<String>, String>>()?;
    Ok((statuses, has_bodies))
}
