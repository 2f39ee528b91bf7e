//! What becomes of a subscriber that has lost something: neither stream nor log reach back to where it stands.

use crate::base::fault::Disconnect;
use crate::hub::options::GapPolicy;
use crate::proto::encoding::Encoding;
use crate::session::state::Session;
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::unidirectional::{Mode, Unidirectional};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterGap {
    Close(Disconnect),
    /// It is unsubscribed and hears that its state is insufficient.
    Unsubscribe,
    /// It goes on with the newest publication that is kept, and hears nothing of it.
    SkipToNewest,
    /// It goes on with the next publication, and hears of the loss.
    Reset,
    /// A poll has its answer: the channel has lost something.
    Answer,
    /// Its request is not answered yet: the answer says so, with what other channels have to give.
    SayInAnswer,
}

impl Session {
    pub fn after_gap(&self, channel: ChannelIndex, policy: GapPolicy) -> AfterGap {
        match policy {
            GapPolicy::Close => AfterGap::Close(Disconnect::SLOW),
            GapPolicy::Latest => AfterGap::SkipToNewest,
            // The client alone cannot subscribe to it again: it reconnects.
            GapPolicy::Tell if self.sub(channel).is_some_and(|sub| sub.is(Sub::SERVER_SIDE)) => {
                AfterGap::Close(Disconnect::INSUFFICIENT_STATE)
            }
            GapPolicy::Tell => AfterGap::Unsubscribe,
        }
    }
}

impl Unidirectional {
    pub fn after_gap(&self, policy: GapPolicy) -> AfterGap {
        match (self.mode, policy) {
            (Mode::Stream(_), GapPolicy::Close) => AfterGap::Close(Disconnect::SLOW),
            (_, _) if !self.is_ready() => AfterGap::SayInAnswer,
            (Mode::Poll | Mode::History | Mode::Publish, _) => AfterGap::Answer,
            // It has no words for a loss.
            (Mode::Stream(Encoding::WebSocketBare), _) => AfterGap::Close(Disconnect::INSUFFICIENT_STATE),
            (Mode::Stream(_), GapPolicy::Latest | GapPolicy::Tell) => AfterGap::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::unidirectional::UnidirectionalWork;
    use crate::session::{Renewal, SubscribeEffect};

    const POLICIES: [GapPolicy; 3] = [GapPolicy::Tell, GapPolicy::Latest, GapPolicy::Close];
    const SLOW: AfterGap = AfterGap::Close(Disconnect::SLOW);
    const INSUFFICIENT: AfterGap = AfterGap::Close(Disconnect::INSUFFICIENT_STATE);

    #[test]
    fn the_namespace_says_what_becomes_of_a_client() {
        let mut session = Session::default();
        for (channel, flags) in [(1, 0), (2, Sub::SERVER_SIDE)] {
            let effect = SubscribeEffect {
                id: 1,
                channel: "a".into(),
                flags,
                since: None,
                reject_unrecovered: false,
                chan_info: None,
                expire_at_s: 0,
                renewal: Renewal::Token,
                data: None,
                filters: None,
                deliver_every: Default::default(),
            };
            session.join_asked(channel, channel, &effect);
        }
        let own = POLICIES.map(|policy| session.after_gap(1, policy));
        assert_eq!(own, [AfterGap::Unsubscribe, AfterGap::SkipToNewest, SLOW]);
        let of_server = POLICIES.map(|policy| session.after_gap(2, policy));
        assert_eq!(of_server, [INSUFFICIENT, AfterGap::SkipToNewest, SLOW]);
    }

    #[test]
    fn a_unidirectional_client_goes_on_where_it_can_be_said() {
        let of = |mode| POLICIES.map(|policy| Unidirectional::new(1, mode, None).after_gap(policy));
        for encoding in Encoding::ALL {
            let expected = match encoding {
                Encoding::WebSocketBare => [INSUFFICIENT, INSUFFICIENT, SLOW],
                _ => [AfterGap::Reset, AfterGap::Reset, SLOW],
            };
            assert_eq!(of(Mode::Stream(encoding)), expected, "{encoding:?}");
        }
        assert_eq!(of(Mode::Poll), [AfterGap::Answer, AfterGap::Answer, AfterGap::Answer]);
    }

    #[test]
    fn a_request_that_waits_for_its_channels_is_not_answered_for_one_of_them() {
        let of = |mode| {
            POLICIES.map(|policy| {
                let mut uni = Unidirectional::new(1, mode, None);
                let asking = Some(Box::default());
                uni.work = Some(Box::new(UnidirectionalWork { asking, ..UnidirectionalWork::default() }));
                uni.after_gap(policy)
            })
        };
        const SAY: AfterGap = AfterGap::SayInAnswer;
        assert_eq!(of(Mode::Poll), [SAY, SAY, SAY]);
        for encoding in Encoding::ALL {
            assert_eq!(of(Mode::Stream(encoding)), [SAY, SAY, SLOW], "{encoding:?}");
        }
    }
}
