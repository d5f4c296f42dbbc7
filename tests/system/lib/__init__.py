"""What the system tests share: nodes, media, SIP, stores."""
