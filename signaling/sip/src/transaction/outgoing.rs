//! What the layer writes itself: the Via and length of what it sends, and the two requests that follow an INVITE.

use crate::flow::Flow;
use crate::message::Message;
use crate::method::Method;

/// Our Via on top; `sent_by` is its host and port, or the flow's local address.
pub(super) fn push_via(request: &mut Message, flow: &Flow, sent_by: Option<&str>, branch: &str) {
    let local = if sent_by.is_none() { flow.local.to_string() } else { String::new() };
    let sent_by = sent_by.unwrap_or(&local);
    request.push_header_front("Via", &format!("SIP/2.0/{} {sent_by};branch={branch};rport", flow.transport));
}

/// On a stream the length of the body must be told; a datagram may have left it out (RFC 3261 20.14).
pub(super) fn suit_stream(message: &mut Message, flow: &Flow) {
    if flow.transport.is_reliable() && message.header("Content-Length").is_none() {
        let length = message.body().len().to_string();
        message.add_header("Content-Length", &length);
    }
}

/// The CANCEL of an INVITE that was sent (RFC 3261 9.1).
pub(super) fn cancel_of(invite: &Message) -> Option<Message> {
    let mut cancel = about(invite, &Method::Cancel)?;
    cancel.copy_lines(invite, "To");
    end(cancel, invite)
}

/// The ACK to a failure (RFC 3261 17.1.1.3): To is that of the response.
pub(super) fn failure_ack(invite: &Message, response: &Message) -> Option<Message> {
    let mut ack = about(invite, &Method::Ack)?;
    ack.copy_lines(response, "To");
    end(ack, invite)
}

/// What both begin with: the INVITE's own branch, and nobody further down its way.
fn about(invite: &Message, method: &Method) -> Option<Message> {
    let mut request = Message::request(method, &invite.request_uri()?);
    request.add_header("Via", &invite.top_via().ok()?.to_string());
    for name in ["Max-Forwards", "From"] {
        request.copy_lines(invite, name);
    }
    Some(request)
}

fn end(mut request: Message, invite: &Message) -> Option<Message> {
    for name in ["Call-ID", "Route"] {
        request.copy_lines(invite, name);
    }
    let method = request.method();
    request.add_header("CSeq", &format!("{} {}", invite.cseq().ok()?.number, method.as_str()));
    request.add_header("Content-Length", "0");
    Some(request)
}
