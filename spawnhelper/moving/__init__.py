"""Moving in: the configuration of Postfix's spawn(8), inetd(8) and xinetd(8) to service files."""
