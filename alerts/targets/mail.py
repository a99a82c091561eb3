"""Mail over SMTP, by default with STARTTLS. The server's certificate is checked."""
from __future__ import annotations

import email.message
import email.policy
import email.utils
import smtplib
from typing import Any

from alerts.shapes import Message
from alerts.targets import Failed, context, reason

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_IMPORTANCE = {"critical": "high", "warning": "normal", "info": "low"}


def compose(target: dict[str, Any], message: Message) -> email.message.EmailMessage:
    """
    Write a message as a mail.

    Args:
        target: the target's configuration.
        message: see message.py.
    """
    mail = email.message.EmailMessage(policy=email.policy.SMTP)
    mail["From"] = target["from"]
    mail["To"] = ", ".join(_recipients(target))
    mail["Subject"] = message["subject"][:200]
    mail["Date"] = email.utils.formatdate(message["at"])
    domain = target["from"].rpartition("@")[2]
    mail["Message-ID"] = f"<{message['id']}@{domain}>"
    if message["incident"]:
        # so an incident is one thread in a mail reader
        mail["References"] = f"<{message['incident']}@{domain}>"
    mail["Importance"] = _IMPORTANCE[message["severity"]]
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    mail["X-Gateway-Site"] = message["site"]
    mail["X-Gateway-Severity"] = message["severity"]
    mail.set_content(message["text"])
    return mail


def deliver(target: dict[str, Any], message: Message) -> str:
    """
    Send a message; returns the server's answer in words.

    Raises:
        Failed: with the server's answer, or the reason why there was none.
    """
    mail, security = compose(target, message), target.get("security", "starttls")
    port, timeout = target.get("port", _PORTS[security]), target.get("timeout", 20)
    host, hello = target["host"], target.get("hello")
    checks = context(target) if security == "tls" else None
    try:
        with (smtplib.SMTP_SSL(host, port, local_hostname=hello, timeout=timeout, context=checks)
              if security == "tls" else smtplib.SMTP(host, port, local_hostname=hello, timeout=timeout)) as server:
            if security == "starttls":
                server.starttls(context=context(target))
            if "user" in target:
                server.login(target["user"], target["password"])
            refused = server.send_message(mail, from_addr=target["from"], to_addrs=_recipients(target))
    except smtplib.SMTPRecipientsRefused as error:
        code, words = next(iter(error.recipients.values()))
        raise Failed(f"no recipient is accepted: {code} {_said(words)}") from None
    except smtplib.SMTPNotSupportedError:
        raise Failed("the server offers no STARTTLS, or no authentication") from None
    except smtplib.SMTPAuthenticationError as error:
        raise Failed(f"user or password is refused: {error.smtp_code}") from None
    except smtplib.SMTPResponseException as error:
        raise Failed(f"refused: {error.smtp_code} {_said(error.smtp_error)}") from None
    except smtplib.SMTPServerDisconnected:
        raise Failed("the server has broken off") from None
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise Failed(reason(error)) from None
    if refused:
        return f"taken, but not for {', '.join(sorted(refused))}"
    return "taken by the mail server"


def _recipients(target: dict[str, Any]) -> list[str]:
    return [target["to"]] if isinstance(target["to"], str) else list(target["to"])


def _said(words: bytes | str) -> str:
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    return " ".join(text.split())[:200]
