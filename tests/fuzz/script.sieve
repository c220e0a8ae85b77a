require "fileinto";
fileinto "INBOX.mailprobe";
