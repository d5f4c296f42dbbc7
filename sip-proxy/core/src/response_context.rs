//! Step 8 and the choice of the best response (RFC 3261 16.7).

use ferric_sip::message::Message;
use ferric_sip::validate::Reject;

use crate::group::ElementId;
use crate::rescue::Trouble;

/// The best final response so far.
#[derive(Debug)]
pub(crate) struct Best {
    answer: Answer,
    /// WWW-Authenticate and Proxy-Authenticate of every 401 and 407, in the order in which they came (16.7 step 7).
    challenges: Vec<(&'static str, String)>,
    /// So many 401 and 407 came.
    challengers: u32,
}

#[derive(Debug)]
enum Answer {
    /// Of an element; `exhausted` when nobody else could be asked after it.
    Upstream { response: Box<Message>, exhausted: bool, element: Option<ElementId> },
    /// Our own.
    Own { reject: Reject, side: &'static str },
}

impl Answer {
    fn status(&self) -> u16 {
        match self {
            Answer::Upstream { response, .. } => response.status().unwrap_or(500),
            Answer::Own { reject, .. } => reject.status,
        }
    }

    /// Lower is better: 6xx, then the lowest class, in it what tells the caller how to try again; answers of others before our own.
    fn rank(&self) -> (u16, u16, bool) {
        let status = self.status();
        let class = if status >= 600 { 0 } else { status / 100 };
        let helpful = match status {
            401 | 407 | 415 | 420 | 484 => 0,
            // It says nothing but that somebody did not answer.
            408 | 503 => 2,
            _ => 1,
        };
        (class, helpful, matches!(self, Answer::Own { .. }))
    }
}

const CHALLENGES: [(u16, &str); 2] = [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")];

impl Best {
    /// Takes an element's final response into account; its top Via is ours.
    pub(crate) fn add_response(
        best: &mut Option<Best>,
        response: Message,
        exhausted: bool,
        element: Option<ElementId>,
    ) {
        let challenges = match response.status() {
            Some(401 | 407) => CHALLENGES
                .iter()
                .flat_map(|(_, name)| {
                    response.headers(name).map(|value| (*name, value.into_owned())).collect::<Vec<_>>()
                })
                .collect(),
            _ => Vec::new(),
        };
        Best::add(best, Answer::Upstream { response: Box::new(response), exhausted, element }, challenges);
    }

    /// Takes a failure of our own into account.
    pub(crate) fn add_trouble(best: &mut Option<Best>, trouble: &Trouble, is_invite: bool) {
        Best::add(best, Answer::Own { reject: trouble.reject(is_invite), side: trouble.as_str() }, Vec::new());
    }

    /// The caller gave up.
    pub(crate) fn add_cancelled(best: &mut Option<Best>) {
        Best::add(best, Answer::Own { reject: Reject::new(487), side: "cancelled" }, Vec::new());
    }

    fn add(best: &mut Option<Best>, answer: Answer, challenges: Vec<(&'static str, String)>) {
        let challengers = u32::from(!challenges.is_empty());
        match best {
            Some(have) => {
                have.challengers += challengers;
                have.challenges.extend(challenges);
                if answer.rank() < have.answer.rank() {
                    have.answer = answer;
                }
            }
            None => *best = Some(Best { answer, challenges, challengers }),
        }
    }

    /// A 6xx: nobody else is to be asked.
    pub(crate) fn is_global(&self) -> bool {
        self.answer.status() >= 600
    }

    /// The answer to `request`, who made it, and which element that was.
    pub(crate) fn into_response(
        self,
        request: &Message,
        is_invite: bool,
    ) -> (Message, &'static str, Option<ElementId>) {
        match self.answer {
            Answer::Own { reject, side } => (reject.response(request), side, None),
            Answer::Upstream { response, exhausted, element } => {
                let status = response.status().unwrap_or(500);
                let mut response = *response;
                response.remove_top_via();
                match status {
                    // A 503 would make the caller leave us for all its calls (16.7 step 6); true only when nobody is left.
                    503 if !exhausted => response = Reject::new(500).response(request),
                    // Never sent to anything but an INVITE (RFC 4320 4.2).
                    408 if !is_invite => response = Reject::new(504).response(request),
                    // With one challenge only, the response goes as it came.
                    401 | 407 if self.challengers > 1 => {
                        for (_, name) in CHALLENGES {
                            response.remove_header(name);
                        }
                        for (name, value) in &self.challenges {
                            response.add_header(name, value);
                        }
                    }
                    _ => {}
                }
                (response, "upstream", element)
            }
        }
    }
}
