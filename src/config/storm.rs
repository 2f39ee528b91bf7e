//! What join and leave events come to when all members of a channel come at once, in a sentence for `trunkline check`.

use crate::config::sections::Config;
use crate::config::sentences::{grouped, of_all};
use crate::session::rules::NamespaceOptions;

/// The size of a channel that the sentence is about: a large event, and small enough to be met some day.
const MEMBERS: u64 = 10_000;

/// One sentence for each namespace with join and leave events.
pub fn sentences(config: &Config) -> Vec<String> {
    of_all(config, sentence)
}

fn sentence(options: &NamespaceOptions) -> Option<String> {
    if !options.channel.join_leave {
        return None;
    }
    let who = match options.rules.force_push_join_leave {
        true => "every subscriber",
        false => "every subscriber that asks for them",
    };
    let channel = &options.channel;
    let most = u64::from(channel.join_leave_members_max);
    let members = if most == 0 { MEMBERS } else { most.min(MEMBERS) };
    let mut sentence = format!(
        "join and leave events go to {who}: {} members that join one channel together are up to {} pushes \
         ({} x members), and as many when they leave",
        grouped(MEMBERS),
        // Of those who come at once each may hear of all others.
        grouped(members * MEMBERS),
        if most > 0 && most < MEMBERS { "joins that are sent" } else { "members" },
    );
    if most > 0 {
        sentence.push_str(&format!(", since those of more than {} members are not sent", grouped(most)));
    }
    let rate = u64::from(channel.join_leave_per_second);
    if rate > 0 {
        let pushes = grouped(rate * members);
        sentence.push_str(&format!(", about {pushes} pushes a second at most"));
    }
    if most == 0 && rate == 0 {
        sentence.push_str(": join_leave_members_max and join_leave_per_second bound them");
    }
    Some(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::config_of;

    fn said(text: &str) -> Vec<String> {
        sentences(&config_of(text))
    }

    #[test]
    fn each_namespace_with_events_has_its_sentence() {
        assert_eq!(said("[channel]\npresence = true\n"), [""; 0]);
        let text = "[channel]\njoin_leave = true\n[[namespace]]\nname = \"a\"\n[[namespace]]\nname = \"b\"\njoin_leave = true\n\
                    force_push_join_leave = true\n";
        let said = said(text);
        assert_eq!(said.len(), 2, "{said:?}");
        let plain = "channels without a namespace: join and leave events go to every subscriber that asks for them: \
                     10,000 members that join one channel together are up to 100,000,000 pushes";
        assert!(said[0].starts_with(plain), "{said:?}");
        assert!(
            said[1].starts_with("namespace \"b\": join and leave events go to every subscriber: "),
            "{said:?}"
        );
    }

    #[test]
    fn bounds_are_counted_in() {
        let bounded = |settings: &str| said(&format!("[channel]\njoin_leave = true\n{settings}")).remove(0);
        assert!(
            bounded("")
                .ends_with("when they leave: join_leave_members_max and join_leave_per_second bound them")
        );
        let quiet = bounded("join_leave_members_max = 1000\n");
        assert!(
            quiet.contains("up to 10,000,000 pushes")
                && quiet.ends_with("more than 1,000 members are not sent")
        );
        let paced = bounded("join_leave_per_second = 20\n");
        assert!(paced.ends_with("as many when they leave, about 200,000 pushes a second at most"), "{paced}");
    }
}
